"""All engines at once, as the rank that sends them its weights sees them."""

import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from typing import Any, TypeVar

import ray

from generation.buckets import BUCKET_BYTES
from launch.processes.segment import Segment, room
from launch.processes.waiting import raise_failures, wait

LOOK = 1.0
"""Seconds between two looks at what engines have answered meanwhile."""

T = TypeVar("T")


class EngineClient:
    """All engines at once, for the sending rank: `trainer.update.weight_sync.Client`."""

    def __init__(self, engines: Mapping[str, Any], workers_per_engine: int, timeout: float) -> None:
        self._engines = engines
        self._workers_per_engine = workers_per_engine
        self._timeout = timeout
        self._loading: dict[str, Any] = {}
        self._asked: dict[str, Any] = {}
        self.begin(0)

    def beside(self, work: Callable[[], T]) -> T:
        """What `work` returns, or raises: it makes calls to the engines, and meets them in collectives.

        Raises RemoteError: a call to an engine failed, or is overdue. The work goes on in a thread then, maybe for
        ever, since a collective that the engine never enters does not end.
        """
        outcome: Future[T] = Future()

        def run() -> None:
            try:
                outcome.set_result(work())
            except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
                outcome.set_exception(error)

        threading.Thread(target=run, name="weight sync", daemon=True).start()
        while not wait_for([outcome], LOOK).done:
            raise_failures(self._asked, self._phase)
            if time.monotonic() > self._since + self._timeout:
                self._wait(self._asked)
        return outcome.result()

    def begin(self, policy_version: int) -> None:
        """From now on `policy_version` is synced, and the timeout counts."""
        self._policy_version = policy_version
        self._since = time.monotonic()

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """See `Client`. With `nccl` each engine's workers have places of their own in the group."""
        calls = {}
        for index, (name, engine) in enumerate(self._engines.items()):
            info = dict(init_info)
            if "rank_offset" in info:
                info["rank_offset"] += index * self._workers_per_engine
            calls[name] = engine.init_weight_transfer_engine.remote(info)
        self._asked = calls
        self._wait(calls)

    def start_weight_update(self) -> None:
        self._loading = {}
        self._wait(self._all("start_weight_update"))

    def update_weights(self, update_info: dict[str, Any] | list[dict[str, Any]]) -> None:
        """Returns while the engines load, so that the next call is made ready meanwhile."""
        bucket = ray.put(update_info)
        self._wait(self._loading)
        self._loading = self._all("update_weights", bucket)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._wait(self._loading)
        self._wait(self._all("finish_weight_update", weight_version or str(self._policy_version)))

    def _all(self, method: str, *arguments: Any) -> dict[str, Any]:
        self._asked = {name: getattr(engine, method).remote(*arguments) for name, engine in self._engines.items()}
        return self._asked

    @property
    def _phase(self) -> str:
        return f"syncing the weights of policy version {self._policy_version}"

    def _wait(self, calls: Mapping[str, Any]) -> dict[str, Any]:
        return wait(calls, self._phase, self._timeout, "cluster.publish_timeout", self._since)


class InTurnClient(EngineClient):
    """All engines at once, where the sender writes into the same memory again after each call (`ipc`)."""

    def update_weights(self, update_info: dict[str, Any] | list[dict[str, Any]]) -> None:
        """Returns when the engines have loaded."""
        super().update_weights(update_info)
        self._wait(self._loading)
        self._loading = {}


class BucketClient(EngineClient):
    """All engines at once, where weights come in buckets: in shared memory to the engines of this machine, in Ray's
    object store, which would be new memory every time, to the others.

    Two segments take turns: one bucket is written while the engines load the one before.
    """

    def __init__(self, engines: Mapping[str, Any], workers_per_engine: int, timeout: float) -> None:
        super().__init__(engines, workers_per_engine, timeout)
        self._segments: dict[int, Segment] = {}
        self._near: frozenset[str] = frozenset()
        self._turn = 0

    def update_weights(self, update_info: dict[str, Any] | list[dict[str, Any]]) -> None:
        """Returns while the engines load the bucket."""
        assert isinstance(update_info, dict)
        data, layout = update_info["data"], update_info["layout"]
        sizes = [array.nbytes for array in data]
        self._turn = 1 - self._turn
        self._make_room(room(sizes))
        if self._near:
            self._segments[self._turn].write(data)
        bucket = ray.put(update_info) if len(self._near) < len(self._engines) else None
        self._wait(self._loading)
        self._loading = {
            name: engine.update_weights_from.remote(self._turn, sizes, layout)
            if name in self._near
            else engine.update_weights.remote(bucket)
            for name, engine in self._engines.items()
        }

    def _make_room(self, size: int) -> None:
        """A segment for this turn that is large enough. What an engine loads meanwhile is in the other one."""
        segment = self._segments.get(self._turn)
        if not hasattr(os, "memfd_create") or (segment and segment.address.size >= size):
            return
        self._segments[self._turn] = Segment(max(size, BUCKET_BYTES))
        attached = self._wait(self._all("attach", self._turn, self._segments[self._turn].address))
        self._near = frozenset(name for name, near in attached.items() if near)


CLIENTS: Mapping[str, type[EngineClient]] = {"shared_memory": BucketClient, "ipc": InTurnClient, "nccl": EngineClient}
"""By weight-transfer back end."""
