"""The task `binary`: a number in binary digits."""

import random
import re
from collections.abc import Iterator, Mapping
from typing import ClassVar

from configs.schema import Difficulty
from rewards.builtin import BuiltinTask, Question
from rewards.permutation import permutation

ANSWER = re.compile(r"(0|1[01]*)\.?")


class Binary(BuiltinTask):
    summary: ClassVar[str] = "A number in binary, without leading zeros."
    ranges: ClassVar[Mapping[Difficulty, tuple[int, int]]] = {"easy": (0, 7), "medium": (0, 15), "hard": (0, 255)}

    @property
    def capacity(self) -> int:
        return self.high - self.low + 1

    def questions(self, seed: int) -> Iterator[Question]:
        for index in permutation(self.capacity, random.Random(seed)):
            number = self.low + index
            yield Question(
                id=f"binary-{number}",
                text=f"What is {number} in binary? Answer with the digits only.",
                answer=f"{number:b}",
            )

    def parse(self, text: str) -> str | None:
        """The digits, if there is nothing else but spaces around them and one full stop.

        >>> task = Binary(0, 15)
        >>> task.parse(" 101. "), task.parse("0101"), task.parse("0b101")
        ('101', None, None)
        """
        match = ANSWER.fullmatch(text.strip())
        return None if match is None else match[1]

    def closeness(self, answer: str, given: str) -> float:
        """The share of matching digits, counted from the right, of the longer of the two.

        >>> Binary(0, 15).closeness("1010", "1011"), Binary(0, 15).closeness("1010", "10")
        (0.75, 0.5)
        """
        matching = sum(left == right for left, right in zip(reversed(answer), reversed(given), strict=False))
        return matching / max(len(answer), len(given))
