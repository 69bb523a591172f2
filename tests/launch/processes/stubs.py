"""Processes that hold no model, for tests of where they are and when they start."""

import time
from typing import Any

import ray

from launch.processes.heartbeat import beat_forever


class Stub:
    """loaded: when, in seconds of the machine's clock."""

    loaded = 0.0

    def where(self) -> tuple[str, list[int], float]:
        """Ray's id of the machine, the GPUs, and when it was loaded."""
        context = ray.get_runtime_context()
        return context.get_node_id(), sorted(int(gpu) for gpu in context.get_accelerator_ids()["GPU"]), self.loaded


class StubEngine(Stub):
    """In place of `EngineProcess`; it takes a second to load."""

    def __init__(self, spec: Any) -> None:
        beat_forever()
        time.sleep(1)
        self.loaded = time.time()

    def ready(self) -> None:
        """See `EngineProcess.ready`."""


class StubRank(Stub):
    """In place of `RankProcess`."""

    def __init__(self) -> None:
        beat_forever()

    def rendezvous(self) -> str:
        """See `RankProcess.rendezvous`."""
        return "nowhere"

    def start(self, spec: Any, checkpoint: Any) -> None:
        """See `RankProcess.start`."""
        self.loaded = time.time()
