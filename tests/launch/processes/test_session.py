"""What a session leaves behind: nothing, whatever ends it."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from configs.errors import ConfigError
from launch.processes import guard
from launch.processes.guard import MARK
from launch.processes.session import environment, session, unheard
from rewards.guard import JOB_SIGNALS

ROOT = Path(__file__).parents[3]

SLEEP = [sys.executable, "-c", "import time; print(flush=True); time.sleep(100)"]

OWNER = """
import os, signal, subprocess, sys, time
from launch.processes.guard import MARK
from launch.processes.session import environment, session

with session() as folder:
    with environment({MARK: str(folder)}):
        # One that leaves its owner's group and session, and starts another.
        start = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', sys.argv[1]]); time.sleep(100)"
        subprocess.Popen([sys.executable, "-c", start, "import time; time.sleep(100)"], start_new_session=True)
    (folder / "file").write_text("something")
    print(folder, flush=True)
    time.sleep(100)
"""


def guards_of(folder: Path) -> list[int]:
    """Processes that began as the guard of the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # ended meanwhile, as those of other tests do
            if f"guard.py\0{folder}".encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def marked(folder: Path) -> list[int]:
    return guard._processes(str(folder))


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_leaving_kills_what_was_started_and_removes_the_folder() -> None:
    with session() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        with environment({MARK: str(folder)}):
            process = subprocess.Popen(SLEEP, stdout=subprocess.PIPE)
        unmarked = subprocess.Popen(SLEEP, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline()
        os.kill(process.pid, signal.SIGSTOP)
        assert marked(folder) == [process.pid]
    assert process.wait(5) == -signal.SIGKILL
    assert not folder.exists()
    assert unmarked.poll() is None
    unmarked.kill()
    unmarked.wait()


def test_what_is_written_there_afterwards_goes_too() -> None:
    """By what is left of Ray in the owner, or a process that was just being started."""
    with session() as folder:
        pass
    assert not folder.exists()
    (folder / "ray").mkdir(parents=True)
    with environment({MARK: str(folder)}):
        process = subprocess.Popen(SLEEP, stdout=subprocess.PIPE)
    assert process.wait(5) == -signal.SIGKILL
    until(lambda: not folder.exists(), 5)
    until(lambda: not guards_of(folder))


@pytest.mark.parametrize("stopped", [False, True])
def test_nothing_outlives_an_owner_that_is_killed(stopped: bool) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert owner.stdout is not None
    folder = Path(owner.stdout.readline().strip())
    until(lambda: len(marked(folder)) == 2)
    if stopped:
        for pid in marked(folder):
            os.kill(pid, signal.SIGSTOP)
    os.killpg(owner.pid, signal.SIGKILL)  # the guard is not in its group
    owner.wait(10)
    until(lambda: not marked(folder) and not folder.exists())


def test_the_guard_hears_no_signal() -> None:
    with session() as folder:
        until(lambda: len(guards_of(folder)) == 1)
        (watching,) = guards_of(folder)
        for number in JOB_SIGNALS:
            os.kill(watching, number)
        time.sleep(0.2)
        os.kill(watching, 0)


def test_children_do_not_hear_what_their_parent_does() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    try:
        with unheard():
            child = subprocess.Popen(SLEEP, stdout=subprocess.PIPE)
            assert child.stdout is not None
            child.stdout.readline()
            for number in JOB_SIGNALS:
                os.kill(child.pid, number)
            os.kill(os.getpid(), signal.SIGUSR1)
            until(lambda: bool(heard))
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
        time.sleep(0.2)
        assert child.poll() is None
        child.kill()
        child.wait()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_long_temporary_directory_is_not_used_for_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("long" * 10)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with session() as folder:
        assert folder.parent == Path("/tmp")


def test_no_usable_temporary_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(prefix: str, dir: str) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with (
        pytest.raises(ConfigError, match=r"^TMPDIR: .*/tmp cannot be written to \(No space left on device\)"),
        session(),
    ):
        pass
