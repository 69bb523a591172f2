"""Who gets which of a task's questions: training, the held-out split, or the examples shown before each question.

Decided by a question's place in the seed's order alone, so no number of prompts or examples moves one from share to
share: what a model trained on is never in the test split, however many of either are asked.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Literal, TypeVar

T = TypeVar("T")

Share = Literal["train", "examples", "test"]

BLOCK = 50
"""The order is dealt out in blocks of this many; a task with fewer questions is too small to be shared out."""

PLACES: dict[Share, frozenset[int]] = {
    "train": frozenset(chain(range(16), range(26, BLOCK))),
    "examples": frozenset(range(16, 20)),
    "test": frozenset(range(20, 26)),
}
"""Places of a block. All even in number, so that comparison's pairs of a Yes and a No stay together."""


def take(questions: Iterable[T], share: Share) -> Iterator[T]:
    """The questions of a share, in their order, none made before it is asked for."""
    places = PLACES[share]
    return (question for place, question in enumerate(questions) if place % BLOCK in places)


def size(count: int, share: Share) -> int:
    """How many of `count` questions a share has."""
    blocks, rest = divmod(count, BLOCK)
    return blocks * len(PLACES[share]) + sum(place < rest for place in PLACES[share])
