"""The task `arithmetic`: the sum of two numbers."""

import random
from collections.abc import Iterator, Mapping
from typing import ClassVar

from configs.schema import Difficulty
from rewards import whole_number
from rewards.builtin import BuiltinTask, Question
from rewards.permutation import permutation


class Arithmetic(BuiltinTask):
    """Both numbers are of the range; 3 + 5 and 5 + 3 are two questions."""

    summary: ClassVar[str] = "The sum of two numbers."
    ranges: ClassVar[Mapping[Difficulty, tuple[int, int]]] = {"easy": (0, 9), "medium": (0, 99), "hard": (0, 999)}

    @property
    def capacity(self) -> int:
        return (self.high - self.low + 1) ** 2

    def questions(self, seed: int) -> Iterator[Question]:
        for index in permutation(self.capacity, random.Random(seed)):
            left, right = (self.low + offset for offset in divmod(index, self.high - self.low + 1))
            yield Question(
                id=f"arithmetic-{left}-{right}",
                text=f"What is {left} + {right}? Answer with the number only.",
                answer=str(left + right),
            )

    def parse(self, text: str) -> str | None:
        return whole_number.parse(text)

    def closeness(self, answer: str, given: str) -> float:
        return whole_number.closeness(answer, given)
