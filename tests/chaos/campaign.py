"""One long run of a tiny model, undisturbed, and the same with one fault after another."""

import json
import math
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos import reward
from tests.chaos.command import Command
from tests.chaos.faults import GOES_ON, Fault
from tests.chaos.places import Places
from tests.end_to_end.runs import processes, write_config
from tests.tiny import make_tiny_model

STEPS_PER_FAULT, STEPS_BESIDE = 8, 12
"""Of the long run. A fault takes about six: until its phase comes, until two more are done."""

HANGS = 180.0
"""Seconds without a step or a line of output after which the run counts as hanging. (A start has no steps, and may
take minutes where others use the machine.)"""

LONGEST = 900.0
"""Seconds for a fault in all: a run that starts again and again says so, and gets nowhere."""

STOPPED_SECONDS = 12.0
"""For which the driver is stopped: longer than the time after which a silent engine counts as lost."""

NOTICED = 30.0
"""Seconds within which a command ends that has to: with a tiny model it may make some steps before it notices."""

GONE = 30.0
"""Seconds for processes that were hit to be gone, once the run has gone on."""

DISK = "64m"

QUESTIONS = (
    "What is a",
    "What is b",
    "How is c",
    "Is d less",
    "Is e greater",
    "What or f",
    "How and g",
    "Yes or no h",
)

TAIL = 40
"""Lines of output that are kept of a failure."""


@dataclass(frozen=True)
class Outcome:
    """found: seconds until the first word of it, None if there was none. complete: seconds until the step after the
    one that was hit was done. problem: what was not right; empty if all was."""

    fault: Fault
    found: float | None
    complete: float | None
    problem: str


@dataclass(frozen=True)
class Verdict:
    """outcomes: of the faults. problem: of the run as a whole, compared with the undisturbed one."""

    outcomes: Sequence[Outcome]
    problem: str

    @property
    def right(self) -> bool:
        return not self.problem and not any(outcome.problem for outcome in self.outcomes)


class Wrong(Exception):
    """The run did what it must not; the message says what."""


def campaign(faults: Sequence[Fault], tell: Callable[[str], None]) -> Verdict:
    """Tries the faults. tell: is told how it goes."""
    steps = STEPS_PER_FAULT * len(faults) + STEPS_BESIDE
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        model = make_tiny_model(Path(folder) / "model")
        with _long_run(Path(folder) / "undisturbed", model, steps, tell) as undisturbed:
            tell(f"An undisturbed run of {steps} steps")
            began = time.monotonic()
            undisturbed.finish()
            tell(f"  took {time.monotonic() - began:.0f} s")
            with _long_run(Path(folder) / "disturbed", model, steps, tell) as disturbed:
                return _verdict(disturbed, undisturbed.places, faults, tell)


def _verdict(
    disturbed: "_LongRun", undisturbed: Places, faults: Sequence[Fault], tell: Callable[[str], None]
) -> Verdict:
    outcomes = []
    for fault in faults:
        tell(f"{fault.number}: {fault}")
        outcomes.append(disturbed.suffer(fault, undisturbed))
        tell(f"  {_line(outcomes[-1])}")
    tell("To the end, undisturbed")
    try:
        disturbed.finish()
        disturbed.compare(undisturbed)
        if _model(disturbed.places) != _model(undisturbed):
            raise Wrong("the model's weights are not those of the undisturbed run")
    except Wrong as wrong:
        tell(f"  WRONG: {wrong}")
        return Verdict(outcomes, str(wrong))
    tell("  metrics, groups and weights are those of the undisturbed run")
    return Verdict(outcomes, "")


class _LongRun:
    """A run that is started again until it has made all of its steps."""

    def __init__(self, places: Places, config: str, steps: int) -> None:
        self.places = places
        self._config = config
        self._steps = steps
        self._command: Command | None = None
        self._last_lines: Sequence[tuple[float, str]] = ()

    def suffer(self, fault: Fault, undisturbed: Places) -> Outcome:
        """Has it happen, and sees what the run makes of it."""
        times: dict[str, float] = {}
        try:
            self._suffer(fault, times)
            self.compare(undisturbed)
        except Wrong as wrong:
            problem = f"{wrong}\n{self._tail()}"
            self.begin_anew()
        else:
            problem = ""
        return Outcome(fault, times.get("found"), times.get("complete"), problem)

    def finish(self) -> None:
        """To the last step. Raises Wrong."""
        try:
            self._finish(self._running())
        except Wrong as wrong:
            raise Wrong(f"{wrong}\n{self._tail()}") from None

    def compare(self, undisturbed: Places) -> None:
        """Raises Wrong: what it has logged is not what the undisturbed run logged."""
        if problem := different(self.places, undisturbed):
            raise Wrong(problem)

    def begin_anew(self) -> None:
        """With the first step, in an empty folder."""
        self.end()
        for path in (self.places.fault, self.places.filler):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.places.run, ignore_errors=True)

    def end(self) -> None:
        """All processes."""
        if self._command:
            self._command.kill()
            self._command = None

    def _finish(self, command: Command) -> None:
        patience = _Patience()
        while command.process.poll() is None:
            patience.test(self._sign())
            time.sleep(0.2)
        self._ended(command, (0,))
        if self.places.rows() != self._steps:
            raise Wrong(f"it ended after {self.places.rows()} of {self._steps} steps")

    def _suffer(self, fault: Fault, times: dict[str, float]) -> None:
        unfinished = self.places.fault.with_name("fault.unfinished")
        unfinished.write_text(fault.json)
        unfinished.rename(self.places.fault)
        patience = _Patience(LONGEST)
        fired = self._fire(fault, patience)
        at, rows, status = fired["at"], fired["rows"], GOES_ON
        stopped = fault.kind.target == "driver" and fault.kind.deed.startswith("SIGSTOP")
        due = at + NOTICED
        while self.places.rows() < min(rows + 2, self._steps) or (
            status not in fault.kind.ends and time.monotonic() < due
        ):
            command = self._running()
            if "found" not in times and (told := command.told(at)):
                times["found"] = told - at
            if stopped and time.monotonic() > at + STOPPED_SECONDS:
                command.process.send_signal(signal.SIGCONT)
                stopped = False
            if command.process.poll() is not None:
                times.setdefault("found", time.monotonic() - at)
                if status is not GOES_ON:
                    raise Wrong(f"it ended with status {status}, and started again, with {command.process.poll()}")
                status = self._ended(command, fault.kind.ends)
            patience.test(self._sign())
            time.sleep(0.05)
        times["complete"] = time.monotonic() - at
        if status not in fault.kind.ends:
            raise Wrong(f"it went on; it should have ended with status {fault.kind.ends[0]}")
        if fault.kind.deed in ("SIGKILL", "SIGSTOP"):
            self._await_gone(fired["pids"])
        self._await_room()

    def _fire(self, fault: Fault, patience: "_Patience") -> dict[str, Any]:
        """Waits for the fault to come; when it did, and to what."""
        while True:
            if self.places.fired.exists():
                for line in self.places.fired.read_text().splitlines():
                    fired: dict[str, Any] = json.loads(line)
                    if fired["number"] == fault.number:
                        return fired
            command = self._running()
            if command.process.poll() is not None and self.places.fault.exists():
                raise Wrong(f"it ended with status {command.process.poll()} before the fault came")
            patience.test(self._sign())
            time.sleep(0.05)

    def _running(self) -> Command:
        if self._command is None:
            self._command = Command(self.places.folder, self._config)
        return self._command

    def _ended(self, command: Command, ends: Sequence[int | None]) -> int:
        """The exit status. Raises Wrong: it is none of `ends`, or something is left behind."""
        status = command.process.wait()
        left = command.left_behind()
        if status not in ends:
            raise Wrong(f"it ended with status {status}")
        if left:
            raise Wrong(f"it left behind {'; '.join(left)}")
        if any(line.startswith("Traceback") for _, line in command.lines):
            raise Wrong(f"it ended with status {status} and a traceback")
        command.kill()
        self._command = None
        self._last_lines = command.lines
        return status

    def _await_gone(self, pids: Sequence[int]) -> None:
        deadline = time.monotonic() + GONE
        while left := set(pids) & set(processes(self._running().mark)):
            if time.monotonic() > deadline:
                raise Wrong(f"what was hit is still there: {', '.join(map(str, left))}")
            time.sleep(0.1)

    def _await_room(self) -> None:
        """The run itself empties the disk that it has filled, unless the next fault ends it before."""
        deadline = time.monotonic() + GONE
        while self.places.filler.exists():
            if time.monotonic() > deadline:
                raise Wrong(f"nobody removed {self.places.filler}")
            time.sleep(0.1)

    def _sign(self) -> tuple[int, int]:
        """Changes while it gets somewhere."""
        return self.places.rows(), len(self._command.lines) if self._command else 0

    def _tail(self) -> str:
        lines = [*self._last_lines, *(self._command.lines if self._command else ())]
        return "\n".join(f"    {at:.1f} {text}" for at, text in lines[-TAIL:])


class _Patience:
    """With a run that may hang."""

    def __init__(self, longest: float = math.inf) -> None:
        self._end = time.monotonic() + longest
        self._sign: object = None
        self._since = time.monotonic()

    def test(self, sign: object) -> None:
        """Raises Wrong: it has had no other sign for long."""
        now = time.monotonic()
        if sign != self._sign:
            self._sign, self._since = sign, now
        if now - self._since > HANGS:
            raise Wrong(f"it hangs: no step and no word for {HANGS:.0f} s")
        if now > self._end:
            raise Wrong(f"it gets nowhere: the fault is not over after {LONGEST:.0f} s")


def different(mine: Places, undisturbed: Places) -> str:
    """How what was logged is not the beginning of what the undisturbed run logged; empty if it is."""
    for name, rows, others in (
        ("metrics.jsonl", mine.metrics(), undisturbed.metrics()),
        ("groups.jsonl", mine.groups(), undisturbed.groups()),
    ):
        for number, (row, other) in enumerate(zip(rows, others, strict=False), 1):
            if row != other:
                keys = [key for key in {**row, **other} if row.get(key) != other.get(key)]
                return f"line {number} of {name} is not as without faults: {', '.join(keys)}"
        if len(rows) > len(others):
            return f"{name} has {len(rows)} lines, without faults {len(others)}"
    return ""


@contextmanager
def _long_run(folder: Path, model: str, steps: int, tell: Callable[[str], None]) -> Iterator[_LongRun]:
    """A run to be made in the folder; on leaving, its processes are ended."""
    folder.mkdir()
    places = Places(folder)
    places.disk.mkdir()
    mounted = _mounted(places.disk)
    if not mounted:
        tell("No disk can be mounted here: a full one is writes that fail in the driver.")
    shutil.copy(reward.__file__, places.reward)
    run = _LongRun(places, _config(places, model, steps), steps)
    try:
        yield run
    finally:
        run.end()
        if mounted:
            subprocess.run(["umount", "--lazy", str(places.disk)], check=True)


def _mounted(path: Path) -> bool:
    """Whether a small file system could be mounted there."""
    if os.geteuid() != 0:
        return False
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(path)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _config(places: Places, model: str, steps: int) -> str:
    data = places.folder / "questions.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"{text}?"}) + "\n" for text in QUESTIONS))
    return write_config(
        places.folder / "chaos.yaml",
        model,
        task={"dataset": str(data), "reward": f"{places.reward}:reward", "reward_timeout": 3},
        sampling={"num_generations": 16},
        engine={"engines": 2},
        training={
            "ranks": 2,
            "zero_stage": 2,
            "learning_rate": 1e-4,
            "lr_scheduler_type": "cosine",
            "num_iterations": 2,
            "beta": 0.05,
        },
        signal={"stop_without_signal": False},
        run={
            "name": "chaos",
            "directory": str(places.run.parent),
            "max_steps": steps,
            "checkpoint_steps": 3,
            "keep_checkpoints": 2,
            "resume": "auto",
            "max_restarts": 100_000,
        },
    )


def _model(places: Places) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (places.run / "model").glob("*.safetensors")}


def _line(outcome: Outcome) -> str:
    if outcome.problem:
        return f"WRONG: {outcome.problem}"
    found = "not told" if outcome.found is None else f"found after {outcome.found:.1f} s"
    return f"right: {found}, complete after {outcome.complete:.1f} s"
