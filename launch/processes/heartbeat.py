"""Each process says once a second that it is there, over Ray's key-value store: whoever waits for it knows in seconds
that it is gone or stopped, not only when its call is overdue."""

import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import ray
from ray.experimental import internal_kv

PERIOD = 1.0
"""Seconds between two beats."""

NAMESPACE = b"cohort-heartbeat"


@dataclass(frozen=True)
class Beat:
    """node: Ray's id of the machine. pid: of the process. number: of the beat, from 0."""

    node: str
    pid: int
    number: int


EXAMPLE_BEAT = Beat(node="8f1d3c0a9b7e4d21", pid=4711, number=12)


def beat_forever() -> None:
    """From now on, in a thread of this actor's process, as long as it lives."""
    threading.Thread(target=_beat, name="heartbeat", daemon=True).start()


def latest(actors: Iterable[Any], timeout: float) -> dict[str, Beat]:
    """The latest beat of each actor that had one, by the actor's id.

    actors: Ray's handles. Raises Ray's errors: its store does not answer within `timeout` seconds.
    """
    keys = [key_of(actor) for actor in actors]
    client = internal_kv.internal_kv_get_gcs_client()
    found = client.internal_kv_multi_get([key.encode() for key in keys], NAMESPACE, timeout)
    return {key.decode(): _read(value) for key, value in found.items()}


def key_of(actor: Any) -> str:
    """The id of the actor behind a handle."""
    key: str = actor._actor_id.hex()
    return key


def _beat() -> None:
    context = ray.get_runtime_context()
    key, node, number = str(context.get_actor_id()).encode(), context.get_node_id(), 0
    while True:
        beat = f"{node} {os.getpid()} {number}".encode()
        internal_kv.internal_kv_get_gcs_client().internal_kv_put(key, beat, True, NAMESPACE)
        number += 1
        time.sleep(PERIOD)


def _read(value: bytes) -> Beat:
    node, pid, number = value.decode().split()
    return Beat(node, int(pid), int(number))
