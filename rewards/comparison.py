"""The task `comparison`: is one number greater than another?"""

import random
import re
from collections.abc import Iterator
from itertools import combinations
from typing import ClassVar, Literal

from rewards.builtin import Question
from rewards.prompts import Verdict

LIMIT = 100
"""Numbers are below this."""

ANSWER = re.compile(r"(yes|no)[.!]?", re.IGNORECASE | re.ASCII)


class Comparison:
    """Questions come in pairs of one Yes and one No, so that every share of them is balanced."""

    summary: ClassVar[str] = 'Two numbers below 100, which one is greater: answer "Yes" or "No".'
    capacity: ClassVar[int] = LIMIT * (LIMIT - 1)

    @staticmethod
    def questions(seed: int) -> Iterator[Question]:
        draw = random.Random(seed)
        pairs = list(combinations(range(LIMIT), 2))
        ascending = draw.sample(pairs, len(pairs))
        descending = draw.sample(pairs, len(pairs))
        for (low, high), (less, more) in zip(ascending, descending, strict=True):
            yield _question(high, low)
            yield _question(less, more)

    @staticmethod
    def verdict(answer: str, text: str, truncated: bool) -> Verdict:
        if truncated:
            return Verdict(-1.0, "truncated")
        given = parse(text)
        if given is None:
            return Verdict(-1.0, "malformed")
        return Verdict(1.0, "correct") if given == answer else Verdict(-0.5, "wrong")


def parse(text: str) -> Literal["Yes", "No"] | None:
    """The answer, if there is nothing else but spaces around it and one full stop or exclamation mark.

    >>> parse(" yes. "), parse("Yes, because")
    ('Yes', None)
    """
    match = ANSWER.fullmatch(text.strip())
    if match is None:
        return None
    return "Yes" if match[1].lower() == "yes" else "No"


def _question(left: int, right: int) -> Question:
    return Question(
        id=f"comparison-{left}-{right}",
        text=f"Is {left} greater than {right}? Answer Yes or No.",
        answer="Yes" if left > right else "No",
    )
