"""Kills what a session started, and removes its folder.

Also a script, which does so when its standard input ends, as it does with the process at the other end, however that
ends. It is started without the session's mark, and imports nothing of Cohort's: it must outlive everything else.
"""

import glob
import os
import shutil
import signal
import sys
import time
from contextlib import suppress

MARK = "COHORT_SESSION"
"""Environment variable that all processes of a session inherit: its folder."""

LIMIT = 20.0
"""Seconds for killed processes to be gone. Only one that waits for a device takes longer."""

REMOVE = 10.0
"""Seconds for the folder to be gone."""

LINGER = 10.0
"""Seconds in which what is left of Ray in an owner that goes on, or a process that was not seen while it was started,
may write there once more."""

LOOK = 0.5


def clear(folder: str) -> None:
    """Kills the processes of the session, and removes its folder."""
    kill(folder)
    deadline = time.monotonic() + REMOVE
    while os.path.exists(folder) and time.monotonic() < deadline:  # noqa: PTH110
        # What is left of Ray in the process that started it may still write there, once its servers are gone.
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.02)


def kill(folder: str) -> None:
    """Kills the processes of the session: again and again, until none is found, since they start others."""
    deadline = time.monotonic() + LIMIT
    while (left := _processes(folder)) and time.monotonic() < deadline:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _processes(folder: str) -> list[int]:
    """Ids of the session's processes, but for this one. A zombie has no environment any more."""
    mark, found = os.fsencode(f"{MARK}={folder}"), []
    for path in glob.glob("/proc/[0-9]*/environ"):  # noqa: PTH207 - pathlib takes three times as long to import
        with suppress(OSError), open(path, "rb") as file:  # noqa: PTH123
            if mark in file.read().split(b"\0"):
                found.append(int(path.split("/")[2]))
    return [pid for pid in found if pid != os.getpid()]


def watch(folder: str) -> None:
    """Until the standard input ends, and until its owner has ended too, or `LINGER` is over."""
    owner = os.getppid()
    sys.stdin.buffer.read()
    clear(folder)
    os.close(sys.stdout.fileno())  # tells the owner that it may go on
    deadline = time.monotonic() + LINGER
    last = False
    while not last and time.monotonic() < deadline:
        last = os.getppid() != owner
        time.sleep(LOOK)
        clear(folder)


if __name__ == "__main__":
    watch(sys.argv[1])
