"""A call that is waited for so long and no longer."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def limited(call: Callable[[], T], seconds: float) -> T:
    """What `call` returns, or raises.

    Raises TimeoutError: it was not done in time. It goes on by itself, in a thread that does not hold up the end of
    the process.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome.result(timeout=seconds)
