"""The process between a reward function and its owner: it ends the function with all that it started.

It forks the process that runs the function, and waits until that ends or its owner closes the lifeline, as a killed
owner does. Then it kills every process that came from the function. On Linux it adopts those whose parents ended,
whatever session they are in, so none escapes; elsewhere it kills the function's process group.

Nothing heavy is imported here, and signals that are for the whole job (`ray job stop`, Slurm, a closed terminal) are
passed over: what they mean is the owner's affair.
"""

import ctypes
import os
import resource
import select
import signal
import socket
import sys
import time
from collections import defaultdict
from contextlib import suppress

from configs.machine import machine_bytes

JOB_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1)
"""What schedulers and terminals send to every process of a job, and mean for the driver: `ray job stop`, Slurm and
systemd; a terminal that is closed; Ctrl-C; Slurm's warning before a time limit. The owner starts this process with
them blocked."""

PROCESSES = 256
"""Of a function at once, its own included. More end it. Not on systems without /proc."""

MEMORY_SHARE = 0.5
"""Of the machine's memory, for each process of the function."""

LOOK_SECONDS = 0.5
LOOK_SHARE = 0.01
"""Processes are counted so often, and counting may take that share of the time."""

END_SECONDS = 5.0
"""After that a process that cannot be killed (it waits for a disk) is left."""

SET_PARENT_DEATH_SIGNAL, SET_CHILD_SUBREAPER = 1, 36
"""prctl(2)."""


def main(path: str, function: str, connection: str, lifeline: str) -> None:
    """Runs in a process of its own. connection, lifeline: descriptors of sockets to the owner; through the second one
    it says why the function's process ended."""
    if sys.platform == "linux":
        _prctl(SET_CHILD_SUBREAPER, 1)
    talk, life = socket.socket(fileno=int(connection)), socket.socket(fileno=int(lifeline))
    talk.set_inheritable(False)  # programs that the function starts have no part in it
    guard, worker = os.getpid(), os.fork()
    if worker == 0:
        life.close()
        _behind_walls(guard)
        from rewards.worker import serve

        serve(path, function, talk)
        return
    talk.close()
    for number in JOB_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    _unblock()
    reason = _watched(worker, life)
    with suppress(OSError):  # the owner is gone
        life.sendall(reason.encode())
    _end(worker)


def _behind_walls(guard: int) -> None:
    """Session, signals and limits of the process that runs the function."""
    os.setsid()
    if sys.platform == "linux":
        _prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != guard:  # it ended before that
            os._exit(1)
    # A handler instead of SIG_IGN, which would be inherited by every program that the function starts. What it forks
    # has the usual handling too, from the first moment on.
    for number in JOB_SIGNALS:
        signal.signal(number, lambda number, frame: None)
    os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_default_signals)
    _unblock()
    # Data, not address space: libraries such as torch map much that they never use.
    limit = int(MEMORY_SHARE * machine_bytes())
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _default_signals() -> None:
    for number in JOB_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    _unblock()


def _block() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, JOB_SIGNALS)


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, JOB_SIGNALS)


def _watched(worker: int, life: socket.socket) -> str:
    """Waits for the end of the worker, of its owner, or of patience; why it ended, as the rest of a sentence."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    look = time.monotonic() + LOOK_SECONDS
    while True:
        for pid, status in _reaped():
            if pid == worker:
                return _ending(os.waitstatus_to_exitcode(status))
        ready, _, _ = select.select([life.fileno(), woken], [], [], max(look - time.monotonic(), 0.0))
        if life.fileno() in ready:
            return "was ended"
        if woken in ready:
            os.read(woken, 4096)
        if (began := time.monotonic()) >= look:
            if len(_descendants(os.getpid())) > PROCESSES:
                return f"started more than {PROCESSES} processes and was ended"
            look = time.monotonic() + max(LOOK_SECONDS, (time.monotonic() - began) / LOOK_SHARE)


def _ending(code: int) -> str:
    how = f"exit status {code}" if code >= 0 else f"signal {-code}, {signal.strsignal(-code)}"
    return f"ended its process ({how})"


def _end(worker: int) -> None:
    """Kills all that came from the worker."""
    deadline = time.monotonic() + END_SECONDS
    while time.monotonic() < deadline:
        for pid in _descendants(os.getpid()) or [-worker]:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)  # a negative one is a process group: all there is without /proc
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:  # adopted ones included: none is left
            return
        time.sleep(0.01)


def _reaped() -> list[tuple[int, int]]:
    """Process id and status of all children that have ended."""
    ended = []
    with suppress(ChildProcessError):
        while (one := os.waitpid(-1, os.WNOHANG)) != (0, 0):
            ended.append(one)
    return ended


def _descendants(root: int) -> list[int]:
    """All processes that came from it and run; none where there is no /proc."""
    children: dict[int, list[int]] = defaultdict(list)
    with suppress(FileNotFoundError), os.scandir("/proc") as folders:
        for folder in folders:
            if folder.name.isdigit():
                with suppress(OSError):  # it has ended
                    # The name, in brackets, may hold anything.
                    state, parent = _read(f"{folder.path}/stat").rpartition(b")")[2].split()[:2]
                    if state != b"Z":
                        children[int(parent)].append(int(folder.name))
    found = [root]
    for pid in found:
        found += children[pid]
    return found[1:]


def _read(path: str) -> bytes:
    """Of a short file. Half the time of `Path.read_bytes`, which counts: it is done for every process."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


def _prctl(option: int, value: int) -> None:
    """prctl(2), which Python has not. Raises OSError."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")
