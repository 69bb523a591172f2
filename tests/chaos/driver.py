"""The command `cohort`, and in its process a thread that does what a plan says, in the phase that it says.

python -m tests.chaos.driver FOLDER train CONFIG

All that is wrapped are the entrances of the phases. FOLDER is the long run's: `fault.json` there is the fault to
come, and is removed when it does; `fired.jsonl` says when.
"""

import errno
import functools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from launch import checkpoint
from launch.__main__ import main
from launch.logger.run_folder import RunFolder
from launch.logger.tracking import TensorBoardTracker
from launch.processes import pool, start, waiting
from launch.task_scorer import TaskScorer
from tests.chaos.faults import PHASES, STARTS, Fault
from tests.chaos.places import Places
from tests.chaos.reward import FREEZE, RAISE
from tests.end_to_end.runs import MARK, processes

TITLES: Mapping[str, str] = {
    "engine": "ray::EngineProcess",
    "rank": "ray::RankProcess",
    "raylet": "/raylet/raylet ",
    "gcs_server": "gcs_server ",
    "reward worker": "rewards.guard",
}
"""What the command lines of the run's processes contain."""

FULL_SECONDS = 5.0

APPEARS = 60.0
"""Seconds for a process that is to be hit to be there."""


class Saboteur:
    """Knows the plan, and what of it has come."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._lock = threading.Lock()
        self._begun: set[tuple[int, str]] = set()
        self._full_until = 0.0
        self._tracker_fails = False

    def enter(self, phase: str) -> None:
        """The run is about to."""
        try:
            fault = Fault.of_json(self._places.fault.read_text())
        except FileNotFoundError:
            return
        if phase == fault.phase:
            self._once(fault, "it", lambda: self._hit(fault))
        elif fault.phase in STARTS and phase == "sampling":  # without another start the phase would not come again
            target = "rank" if fault.phase == "starting the ranks" else "engine"
            self._once(fault, "before it", lambda: _signal(target, signal.SIGKILL, fault.draw))

    def refuse_if_full(self) -> None:
        """Where no disk of our own can be mounted to be full."""
        if time.monotonic() < self._full_until:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def refuse_tracking(self) -> None:
        if self._tracker_fails:
            self._tracker_fails = False
            raise OSError("the tracker does not answer")

    def _once(self, fault: Fault, what: str, deed: Callable[[], None]) -> None:
        with self._lock:
            if (fault.number, what) in self._begun:
                return
            self._begun.add((fault.number, what))
        threading.Thread(target=deed, daemon=True).start()

    def _hit(self, fault: Fault) -> None:
        time.sleep(fault.delay)
        target = fault.kind.target
        pids = _found(target, fault.draw) if target in TITLES else [os.getpid()]
        self._places.fault.unlink()
        now = {"number": fault.number, "at": time.monotonic(), "rows": self._places.rows(), "pids": pids}
        with self._places.fired.open("a") as file:
            file.write(json.dumps(now) + "\n")
        self._do(fault, pids)

    def _do(self, fault: Fault, pids: list[int]) -> None:
        match fault.kind.deed:
            case "full disk for 5 s":
                self._fill()
            case "frozen reward function":
                self._places.beside_reward(FREEZE).touch()
            case "reward function that raises":
                self._places.beside_reward(RAISE).touch()
            case "failing tracker":
                self._tracker_fails = True
            case "damaged checkpoint, then SIGKILL":
                self._damage(fault.draw)
                os.kill(os.getpid(), signal.SIGKILL)
            case deed:
                number = signal.Signals[deed.split()[0]]
                if fault.kind.target == "process group":
                    os.killpg(os.getpgrp(), number)
                for pid in pids:
                    os.kill(pid, number)

    def _fill(self) -> None:
        if not self._places.disk.is_mount():
            self._full_until = time.monotonic() + FULL_SECONDS
            return
        filler = self._places.filler
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                time.sleep(FULL_SECONDS)
        filler.unlink()

    def _damage(self, draw: float) -> None:
        """Changes a byte of the latest checkpoint, if there is one."""
        for path in checkpoint.paths(self._places.run / "checkpoints")[-1:]:
            files = sorted(file for file in path.rglob("*") if file.is_file() and file.stat().st_size)
            file = files[int(draw * len(files))]
            data = bytearray(file.read_bytes())
            data[int(draw * len(data))] ^= 1
            file.write_bytes(data)


def _signal(target: str, number: signal.Signals, draw: float) -> None:
    for pid in _found(target, draw):
        os.kill(pid, number)


def _found(target: str, draw: float) -> list[int]:
    """Process ids; of several engines or ranks one. Waits for it if it is not there yet."""
    deadline = time.monotonic() + APPEARS
    while time.monotonic() < deadline:
        commands = processes(os.environ[MARK])
        if found := sorted(pid for pid, command in commands.items() if TITLES[target] in f"{command} "):
            return found if target == "reward worker" else [found[int(draw * len(found))]]
        time.sleep(0.05)
    raise TimeoutError(f"there is no process {target}")


def sabotaged(saboteur: Saboteur, patch: pytest.MonkeyPatch) -> None:
    """Has the saboteur told of every phase."""

    def entering(function: Callable[..., Any], phase: str, refuse: Callable[[], None] = lambda: None) -> Any:
        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            saboteur.enter(phase)
            refuse()
            return function(*arguments, **options)

        return call

    def wait(calls: Mapping[str, Any], phase: str, *arguments: Any, **options: Any) -> Any:
        if calls:
            saboteur.enter(next((known for known in PHASES if phase.startswith(known)), phase))
        return waiting.wait(calls, phase, *arguments, **options)

    def come(calls: Mapping[str, Any], phase: str, *arguments: Any, **options: Any) -> Any:
        saboteur.enter(phase)
        return waiting.come(calls, phase, *arguments, **options)

    patch.setattr(pool, "wait", wait)
    patch.setattr(pool, "come", come)
    patch.setattr(start, "wait", wait)
    patch.setattr(TaskScorer, "score", entering(TaskScorer.score, "scoring"))
    patch.setattr(RunFolder, "step", entering(RunFolder.step, "logging"))
    patch.setattr(RunFolder, "_append", entering(RunFolder._append, "", saboteur.refuse_if_full))
    patch.setattr(checkpoint, "write", entering(checkpoint.write, "", saboteur.refuse_if_full))
    patch.setattr(TensorBoardTracker, "log", entering(TensorBoardTracker.log, "", saboteur.refuse_tracking))


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        sabotaged(Saboteur(Places(Path(sys.argv[1]))), patch)
        sys.exit(main(sys.argv[2:]))
