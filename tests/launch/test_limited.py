import threading
import time

import pytest

from launch.limited import limited


def test_what_it_returns_or_raises_comes_through() -> None:
    assert limited(lambda: 3, 5) == 3
    with pytest.raises(ZeroDivisionError):
        limited(lambda: 1 // 0, 5)


def test_it_is_not_waited_for_any_longer() -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        limited(threading.Event().wait, 0.05)
    assert time.monotonic() - began < 2
