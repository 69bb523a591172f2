"""Looking after all processes of a run while it waits for some of them."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from launch.errors import ClusterLost, ProcessLost
from launch.processes import heartbeat, own_ray
from launch.processes.heartbeat import Beat
from trainer.ports import Interrupted

SILENT = 8.0
"""Seconds without a heartbeat after which a process counts as lost: it is dead, stopped, or its machine is."""

SILENT_AT_START = 60.0
"""The same while it loads libraries and model, which may hold Python's lock for long."""

LOOK = 1.0
"""Seconds between two looks."""

ORDERLY = 5.0
"""Seconds that processes have to end by themselves, before they are killed."""

STORE = 5.0
"""Seconds that Ray's store may take to answer a look."""

WITHOUT_RAY = 30.0
"""Seconds without an answer of Ray's store after which the cluster counts as lost."""


class Watch:
    """Whoever waits has a `look` now and then.

    interrupted: whether the run is to end. clock: seconds.
    """

    def __init__(
        self, interrupted: Callable[[], bool] = lambda: False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._interrupted = interrupted
        self._clock = clock
        self._actors: dict[str, Any] = {}
        self._limits: dict[str, float] = {}
        self._beats: dict[str, tuple[Beat, float]] = {}
        self._stopped: dict[int, float] = {}  # since when
        self._answered = clock()
        self._looked = clock()

    def add(self, name: str, actor: Any) -> None:
        """Watches the actor under this name, in the place of the one that had it."""
        self._actors[name] = actor
        self._limits[name] = SILENT_AT_START
        self._beats.pop(name, None)

    def ready(self, name: str) -> None:
        """It has started: from now on it must answer quickly."""
        self._limits[name] = SILENT

    def clear(self) -> None:
        """Ends all processes that are watched: orderly those that can, the others all the same."""
        here = ray.get_runtime_context().get_node_id()
        near = [beat for beat, _ in self._beats.values() if beat.node == here]
        for actor in self._actors.values():
            ray.kill(actor)
        deadline = self._clock() + ORDERLY
        while any(own_ray.state(beat.pid) for beat in near) and self._clock() < deadline:
            time.sleep(0.1)
        for beat in near:
            _kill_here(beat.pid)
        self._actors, self._beats = {}, {}

    def end(self, name: str) -> None:
        """Ends the process, also one that is stopped."""
        beat, _ = self._beats.pop(name, (None, 0.0))
        if beat is not None:
            _kill(beat)
        ray.kill(self._actors.pop(name))

    def look(self, phase: str, ranks_only: bool = False, to_the_end: bool = False) -> None:
        """Raises ProcessLost, ClusterLost, Interrupted. Ray's store is asked once a second, however often this is
        called.

        ranks_only: while ranks change or save what they hold, they are left to it: no engine is missed, and no
        interruption heard, before they are done. to_the_end: no interruption is heard, and all are looked after.
        """
        if self._interrupted() and not (ranks_only or to_the_end):
            raise Interrupted
        if gone := own_ray.lost():
            raise ClusterLost(f"While {phase}: Ray's {gone}. All processes of the run end with it.")
        now = self._clock()
        if now - self._looked < LOOK:
            return
        if now - self._looked > 2 * LOOK + STORE:
            # Nobody looked meanwhile, or this process was stopped: what is old says nothing about the others.
            self._beats = {name: (beat, now) for name, (beat, _) in self._beats.items()}
            self._stopped = {}
            self._answered = now
        self._looked = now
        self._stopped = {pid: self._stopped.get(pid, now) for pid in own_ray.stopped_workers()}
        try:
            beats = heartbeat.latest(self._actors.values(), STORE)
        except ray.exceptions.RayError as error:
            if now - self._answered > WITHOUT_RAY:
                raise ClusterLost(
                    f"While {phase}: the Ray cluster did not answer for {WITHOUT_RAY:g} seconds ({error})."
                ) from error
            return
        self._answered = now
        for name, actor in self._actors.items():
            if ranks_only and not name.startswith("rank"):
                continue
            self._judge(name, beats.get(heartbeat.key_of(actor)), now, phase)
        self._end_nameless(now)

    def _judge(self, name: str, beat: Beat | None, now: float, phase: str) -> None:
        if beat is None:  # its process has not started
            return
        known, since = self._beats.get(name, (None, now))
        if known != beat:
            self._beats[name] = beat, now
        elif now - since > (SILENT if beat.pid in self._stopped else self._limits[name]):
            raise ProcessLost(
                f"While {phase}: {name} (process {beat.pid}) has not answered for {now - since:.0f} seconds: it is "
                "stopped, or its machine is.",
                name,
            )

    def _end_nameless(self, now: float) -> None:
        """Those that are stopped before their first beat: Ray would wait for them, and tells whose process ended."""
        named = {beat.pid for beat, _ in self._beats.values()}
        for pid, since in self._stopped.items():
            if now - since > SILENT and pid not in named:
                _kill_here(pid)


def _kill(beat: Beat) -> None:
    """SIGKILL, which a stopped process cannot put off; Ray would ask it to end itself."""
    if beat.node == ray.get_runtime_context().get_node_id():
        _kill_here(beat.pid)
        return
    there = NodeAffinitySchedulingStrategy(beat.node, soft=False)
    ray.remote(_kill_here).options(num_cpus=0, scheduling_strategy=there).remote(beat.pid)


def _kill_here(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
