"""Ending a process that waits for a Ray that is gone: not every call of Ray's comes back then."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from launch.errors import INTERRUPTED

LIMIT = 60.0
"""Seconds that a process has to notice it in the usual way, which takes a few."""

LOOK = 1.0


@contextmanager
def ended_if_stuck(lost: Callable[[], str | None], limit: float = LIMIT) -> Iterator[None]:
    """A process that is still inside `limit` seconds after Ray was lost ends with `INTERRUPTED`.

    lost: what became of Ray; None while it lives.
    """
    left = threading.Event()
    threading.Thread(target=_watch, args=(left, lost, limit), name="stuck", daemon=True).start()
    try:
        yield
    finally:
        left.set()


def _watch(left: threading.Event, lost: Callable[[], str | None], limit: float) -> None:
    since: float | None = None
    while not left.wait(LOOK):
        gone, now = lost(), time.monotonic()
        since = None if gone is None else since or now
        if since is not None and now - since > limit:
            print(
                f"Ray's {gone}, and this process has waited for it for {limit:g} seconds. It ends here; a run goes "
                "on from its latest checkpoint.",
                file=sys.stderr,
                flush=True,
            )
            os._exit(INTERRUPTED)
