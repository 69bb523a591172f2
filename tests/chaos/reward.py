"""A reward function that freezes or raises, once, when a file beside it says so."""

import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FREEZE, RAISE = "freeze", "raise"


def reward(completions: Sequence[str], **columns: Any) -> list[float]:
    """Every text has a value of its own, below that of a right answer: there is always something to learn."""
    if _taken(FREEZE):
        time.sleep(600)
    if _taken(RAISE):
        raise OSError("the judge does not answer")
    return [zlib.crc32(text.encode()) % 1000 / 2000 for text in completions]


def _taken(name: str) -> bool:
    path = Path(__file__).with_name(name)
    if not path.exists():
        return False
    path.unlink()
    return True
