"""The process of a reward function, as its owner sees it: what reaches it, how long it is waited for, how it ends.

Its code may be anyone's, and some scorers execute a model's text. So it gets neither keys nor tokens, what comes from
it is data, and every wait for it has a limit. It runs as the same user, though: files that this user may read or
write, the network and the user's other processes are within its reach.
"""

import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rewards.guard import END_SECONDS, JOB_SIGNALS
from rewards.messages import HEAD, REPLY_BYTES, Failure, Reply, decoded, framed
from rewards.output import Output

PASSED = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "XDG_CACHE_HOME"),
    *("VIRTUAL_ENV", "CONDA_PREFIX", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TOKENIZERS_PARALLELISM"),
    *("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
)
"""Environment variables that a Python program needs; none holds a secret."""

PASSED_PREFIXES = ("LC_", "PYTHON", "COHORT_")

REASON_SECONDS = 1.0
"""For the guard to say why a process ended whose connection is closed."""


class Walled:
    """A reward function in a process of its own, started by this; `reply` has to be asked for first.

    path, function: the file and the name in it. name: what output is shown with. environment: names of variables that
    it gets besides the usual ones.
    """

    def __init__(self, path: Path, function: str, name: str, environment: Sequence[str]) -> None:
        self._output = Output(name)
        self._talk, talk = socket.socketpair()
        self._life, life = socket.socketpair()
        self._printed, printed = os.pipe()
        try:
            with talk, life, _blocked():
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-u", "-c", "import sys, rewards.guard as g; g.main(*sys.argv[1:])",
                     str(path), function, str(talk.fileno()), str(life.fileno())],
                    env=scrubbed(os.environ, environment),
                    pass_fds=[talk.fileno(), life.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=printed,
                    stderr=printed,
                    start_new_session=True,
                )  # fmt: skip
        finally:
            os.close(printed)
        for descriptor in (self._talk.fileno(), self._printed):
            os.set_blocking(descriptor, False)
        self._finalizer = weakref.finalize(self, _end, self._process, self._talk, self._life, self._printed)

    def ask(self, arguments: Mapping[str, Any], wanted: int, timeout: float) -> Reply | None:
        """The reply to a call, see `reply`. wanted: number of values."""
        self._output.new_call()
        return self.reply(timeout, framed(pickle.dumps((arguments, wanted), pickle.HIGHEST_PROTOCOL)))

    def reply(self, timeout: float, request: bytes = b"") -> Reply | None:
        """The next reply, once the request is sent; None when there is none within `timeout` seconds.

        When the process has ended, or sent anything else than a reply, it is ended with all it started, and the
        reply is a Failure.
        """
        try:
            payload = self._exchange(request, time.monotonic() + timeout)
            return None if payload is None else decoded(payload)
        except (EOFError, ConnectionError):
            reason = self._reason()
        except ValueError:
            reason = "sent something else than rewards"
        self.end()
        return Failure(reason)

    @property
    def printed(self) -> str:
        """The end of what the latest call printed, on one line."""
        return self._output.end()

    def end(self) -> None:
        """Ends the process and all that it started."""
        self._finalizer()

    @property
    def ended(self) -> bool:
        return not self._finalizer.alive

    def _exchange(self, request: bytes, deadline: float) -> bytes | None:
        """One loop for all that can keep the owner waiting: a process that does not read, does not answer, or stops
        in the middle of an answer; its output is read meanwhile, so that printing cannot block it."""
        unsent, received = memoryview(request), bytearray()
        poll = select.poll()
        poll.register(self._printed, select.POLLIN)
        poll.register(self._life, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0:
            if unsent:
                with suppress(BlockingIOError):
                    unsent = unsent[self._talk.send(unsent) :]
            poll.register(self._talk, select.POLLIN | (select.POLLOUT if unsent else 0))
            ready = dict(poll.poll(left * 1000))
            if self._printed in ready and not self._read_output():
                poll.unregister(self._printed)
            talk = ready.get(self._talk.fileno(), 0)
            if talk & ~select.POLLOUT:
                received += self._part()
                if len(received) >= HEAD.size:
                    (size,) = HEAD.unpack_from(received)
                    if size > REPLY_BYTES:
                        raise ValueError
                    if len(received) >= HEAD.size + size:
                        self._read_output()
                        return bytes(received[HEAD.size :])
            elif self._life.fileno() in ready:
                raise EOFError
        return None

    def _part(self) -> bytes:
        if not (part := self._talk.recv(2**20)):
            raise EOFError
        return part

    def _read_output(self) -> bool:
        """Reads what there is, at most as much as a pipe holds; whether there may be more later."""
        with suppress(BlockingIOError):
            if not (data := os.read(self._printed, 2**16)):
                return False
            self._output.add(data)
        return True

    def _reason(self) -> str:
        """Why the process has ended, in the guard's words."""
        self._life.settimeout(REASON_SECONDS)
        try:
            reason = self._life.recv(200).decode(errors="replace")
        except TimeoutError:
            return "closed the connection to its owner"
        except ConnectionError:
            reason = ""
        self._read_output()
        return reason or "ended the process that guards it"


def scrubbed(environment: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """What of the environment reaches a reward function: what a Python program needs, and `names`.

    It imports what this process can, this checkout first.
    """
    passed = {
        name: value
        for name, value in environment.items()
        if name in PASSED or name.startswith(PASSED_PREFIXES) or name in names
    }
    path = [str(Path(__file__).parents[1]), *filter(None, sys.path)]
    return passed | {"PYTHONPATH": os.pathsep.join(path)}


@contextmanager
def _blocked() -> Iterator[None]:
    """Signals for the whole job do not end a process that has just been started: it begins with them blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, JOB_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(process: "subprocess.Popen[bytes]", talk: socket.socket, life: socket.socket, printed: int) -> None:
    """The guard ends the process with all it started; a guard that does not is killed, and the process with it."""
    talk.close()
    life.close()
    try:
        process.wait(END_SECONDS + 1)
    except subprocess.TimeoutExpired:
        process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)
    os.close(printed)
