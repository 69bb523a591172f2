"""The task `comparison`: is one number greater than another?"""

import random
import re
from collections.abc import Iterator, Mapping
from math import isqrt
from typing import ClassVar

from configs.schema import Difficulty
from rewards.builtin import BuiltinTask, Question
from rewards.permutation import permutation

ANSWER = re.compile(r"(yes|no)[.!]?", re.IGNORECASE | re.ASCII)


class Comparison(BuiltinTask):
    """Questions come in pairs of one Yes and one No, so that every share of them is balanced."""

    summary: ClassVar[str] = 'Two numbers, is the first one greater: "Yes" or "No".'
    ranges: ClassVar[Mapping[Difficulty, tuple[int, int]]] = {"easy": (0, 9), "medium": (0, 99), "hard": (0, 9999)}

    @property
    def capacity(self) -> int:
        return (self.high - self.low + 1) * (self.high - self.low)

    def questions(self, seed: int) -> Iterator[Question]:
        first, second = random.Random(seed), random.Random(seed)
        second.sample(range(4950), 4950)  # as many draws as 0 to 99 has pairs: its questions stay what they were
        pairs = self.capacity // 2
        for left, right in zip(permutation(pairs, first), permutation(pairs, second), strict=True):
            yield _question(*reversed(self._pair(left)))
            yield _question(*self._pair(right))

    def _pair(self, index: int) -> tuple[int, int]:
        """The pair at `index` of `itertools.combinations(range(low, high + 1), 2)`, counted from the end."""
        behind = self.capacity // 2 - 1 - index
        row = (isqrt(8 * behind + 1) - 1) // 2
        return self.high - 1 - row, self.high - behind + row * (row + 1) // 2

    def parse(self, text: str) -> str | None:
        """The answer, if there is nothing else but spaces around it and one full stop or exclamation mark.

        >>> task = Comparison(0, 99)
        >>> task.parse(" yes. "), task.parse("Yes, because")
        ('Yes', None)
        """
        match = ANSWER.fullmatch(text.strip())
        return None if match is None else match[1].capitalize()

    def closeness(self, answer: str, given: str) -> float:
        """0.0: there is one wrong answer only."""
        return 0.0


def _question(left: int, right: int) -> Question:
    return Question(
        id=f"comparison-{left}-{right}",
        text=f"Is {left} greater than {right}? Answer Yes or No.",
        answer="Yes" if left > right else "No",
    )
