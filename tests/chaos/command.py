"""One start of the command, with what it prints, and what it leaves behind."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.end_to_end.runs import MARK, ROOT, processes

SHARED_MEMORY = Path("/dev/shm")

PATIENCE = 20.0
"""Seconds for everything to be gone after the command has ended."""


class Command:
    """`cohort train CONFIG` with a saboteur in it, in a process group and with a temporary folder of its own.

    lines: what it printed so far, with the time of the monotonic clock, which all processes of a machine share.
    """

    def __init__(self, folder: Path, config: str) -> None:
        self.mark = uuid.uuid4().hex
        self.lines: list[tuple[float, str]] = []
        self._temporary = Path(tempfile.mkdtemp(prefix="c-", dir="/tmp"))  # short: sockets are in it
        self._shared = _shared_memory()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "VLLM_"))}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.driver", str(folder), "train", config],
            cwd=folder,
            env=inherited
            | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", MARK: self.mark}
            | {"TMPDIR": str(self._temporary)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def told(self, since: float) -> float | None:
        """When it first said, after that time, that something is wrong."""
        return next((at for at, line in self.lines if at >= since and line.startswith(("Warning:", "cohort "))), None)

    def left_behind(self) -> Sequence[str]:
        """What of an ended command is still there after a while: processes, files, shared memory."""
        deadline = time.monotonic() + PATIENCE
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return left

    def kill(self) -> None:
        """Ends all that comes from it."""
        while found := processes(self.mark):
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        self.process.wait()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def _left(self) -> list[str]:
        files = [str(path) for path in self._temporary.iterdir()] if self._temporary.exists() else []
        return [*processes(self.mark).values(), *files, *_orphans(_shared_memory() - self._shared)]

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append((time.monotonic(), line.rstrip("\n")))


def _shared_memory() -> set[str]:
    return {str(path) for path in SHARED_MEMORY.iterdir()}


def _orphans(paths: set[str]) -> list[str]:
    """Those that no process has mapped. Other programs of the machine use shared memory as well."""
    if not paths:
        return []
    mapped = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):
            mapped |= {line.split()[-1] for line in maps.read_text().splitlines() if str(SHARED_MEMORY) in line}
    return sorted(paths - mapped)
