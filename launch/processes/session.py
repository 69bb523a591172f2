"""The processes of a Ray of our own and their folder: gone with the process that started them, whatever ends it."""

import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from configs.errors import ConfigError
from launch.processes import guard
from launch.processes.guard import MARK
from rewards.guard import JOB_SIGNALS

PARENT_BYTES = 23
"""Of the temporary directory's path at most: the path of a socket has 107, and Ray's part of it up to 84."""


def folder() -> Path | None:
    """Of the session that this process belongs to."""
    inherited = os.environ.get(MARK)
    return Path(inherited) if inherited else None


@contextmanager
def session() -> Iterator[Path]:
    """A private folder (mode 0700) for processes that are started with its path as `MARK` in their environment.

    On leaving, and when this process is killed, they are killed and the folder is removed.
    Raises ConfigError: no temporary directory is usable.
    """
    private = _private_folder()
    with unheard():
        watching = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, str(private)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={name: value for name, value in os.environ.items() if name != MARK},
            start_new_session=True,
        )
    try:
        yield private
    finally:
        guard.clear(str(private))
        assert watching.stdin is not None and watching.stdout is not None
        watching.stdin.close()
        cleared = select.poll()
        cleared.register(watching.stdout)
        cleared.poll(guard.LIMIT * 1000)  # until it has cleared, too; then it goes on by itself
        watching.stdout.close()
        threading.Thread(target=watching.wait, daemon=True).start()


@contextmanager
def unheard() -> Iterator[None]:
    """Processes that are started inside do not hear `JOB_SIGNALS`, nor do those that they start. This one does,
    through a thread that waits for nothing else."""
    left = threading.Event()
    threading.Thread(target=left.wait, daemon=True).start()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, JOB_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        left.set()


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Inside, these environment variables are set, for processes that are started."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _private_folder() -> Path:
    problems = []
    for parent in dict.fromkeys((_temporary_directory(), "/tmp")):
        if len(os.fsencode(parent)) > PARENT_BYTES:
            problems.append(f"{parent} is longer than {PARENT_BYTES} bytes, too long for the sockets in it")
            continue
        try:
            return Path(tempfile.mkdtemp(prefix="cohort-", dir=parent))
        except OSError as error:
            problems.append(f"{parent} cannot be written to ({error.strerror})")
    raise ConfigError(
        f"TMPDIR: there is no directory for Ray's files and sockets: {'; '.join(problems)}. "
        f"Set TMPDIR to a directory that you may write to, with a path of at most {PARENT_BYTES} bytes."
    )


def _temporary_directory() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return "/tmp"
