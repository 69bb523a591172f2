"""What a built-in task is: a seeded maker of questions, and a judge of answers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

from rewards.prompts import Verdict


@dataclass(frozen=True)
class Question:
    """id: unique inside the task. text: what the user asks. answer: the right one."""

    id: str
    text: str
    answer: str


class BuiltinTask(Protocol):
    """summary: one line for `cohort tasks`. capacity: how many different questions there are."""

    summary: ClassVar[str]
    capacity: ClassVar[int]

    @staticmethod
    def questions(seed: int) -> Iterator[Question]:
        """All `capacity` questions, each once, in an order drawn from the seed."""
        ...

    @staticmethod
    def verdict(answer: str, text: str, truncated: bool) -> Verdict:
        """Judge a completion's `text` by the right `answer`. truncated: cut off by max_completion_length."""
        ...


EXAMPLE_QUESTION = Question(id="comparison-7-3", text="Is 7 greater than 3? Answer Yes or No.", answer="Yes")
