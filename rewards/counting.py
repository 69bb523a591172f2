"""The task `counting`: how many words a sentence has."""

import random
from collections.abc import Iterator, Mapping
from typing import ClassVar

from configs.schema import Difficulty
from rewards import whole_number
from rewards.builtin import BuiltinTask, Question
from rewards.permutation import permutation

WORDS = (  # noqa: SIM905  # a line to a word would be a page
    "a and are big bird blue boat book box boy bread by can car cat city cold cup day dog door fast fish food friend "
    "from garden girl good green happy has he her his house in is it letter likes little long man milk moon new old "
    "on red river road sees she sings small sun the they to tree walks water we"
).split()
"""64 words; those of a sentence are drawn from them one by one, without grammar."""


class Counting(BuiltinTask):
    """The range is that of the words in a sentence, every number of them asked for equally often."""

    summary: ClassVar[str] = "The number of words in a sentence."
    ranges: ClassVar[Mapping[Difficulty, tuple[int, int]]] = {"easy": (2, 5), "medium": (3, 9), "hard": (5, 20)}
    lowest: ClassVar[int] = 1
    highest: ClassVar[int] = 200

    @property
    def capacity(self) -> int:
        return sum(len(WORDS) ** length for length in range(self.low, self.high + 1))

    def questions(self, seed: int) -> Iterator[Question]:
        draw = random.Random(seed)
        sentences = {
            length: permutation(len(WORDS) ** length, random.Random(draw.random()))
            for length in range(self.low, self.high + 1)
        }
        while sentences:
            for length in draw.sample(list(sentences), len(sentences)):
                index = next(sentences[length], None)
                if index is None:
                    del sentences[length]
                else:
                    yield _question(length, index)

    def parse(self, text: str) -> str | None:
        return whole_number.parse(text)

    def closeness(self, answer: str, given: str) -> float:
        return whole_number.closeness(answer, given)


def _question(length: int, index: int) -> Question:
    """The sentence whose words are the digits of `index`."""
    words = [WORDS[index // len(WORDS) ** place % len(WORDS)] for place in range(length)]
    return Question(
        id=f"counting-{length}-{index}",
        text=f"How many words are in this sentence: {' '.join(words).capitalize()}. Answer with the number only.",
        answer=str(length),
    )
