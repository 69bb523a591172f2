"""Signals that end a run: Ctrl-C, and those of schedulers."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rewards.guard import JOB_SIGNALS


class Interruption:
    """The run saves and ends at the first of these signals; a second Ctrl-C ends it at once, saving nothing."""

    def __init__(self) -> None:
        self.requested = False
        self.insisted = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While open, a signal only sets `requested`."""
        before = {number: signal.signal(number, self._handle) for number in JOB_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            self.insisted = True
            raise KeyboardInterrupt
        self.requested = True
