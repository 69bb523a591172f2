"""What a built-in task is: a seeded maker of questions, and a reader of answers."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from configs.schema import Difficulty
from rewards.errors import TaskError


@dataclass(frozen=True)
class Question:
    """id: unique inside the task. text: what the user asks. answer: the right one."""

    id: str
    text: str
    answer: str


@dataclass(frozen=True)
class BuiltinTask(ABC):
    """A task over the range `low` to `high`, both included: the numbers asked about, or whatever the task counts.

    summary: one line for `cohort tasks`. ranges: low and high of each difficulty. lowest, highest: of a range's
    bounds.
    """

    summary: ClassVar[str]
    ranges: ClassVar[Mapping[Difficulty, tuple[int, int]]]
    lowest: ClassVar[int] = 0
    highest: ClassVar[int] = 10**15

    low: int
    high: int

    def __post_init__(self) -> None:
        """Raises TaskError: the range goes too far."""
        name, given = type(self).__name__.lower(), f"task.range: [{self.low}, {self.high}]"
        if self.low < self.lowest:
            raise TaskError(
                f"{given} begins too low for {name}, it must begin at {self.lowest} or above. Raise the first number."
            )
        if self.high > self.highest:
            raise TaskError(
                f"{given} ends too high for {name}, it must end at {self.highest} or below. Lower the second number."
            )

    @property
    @abstractmethod
    def capacity(self) -> int:
        """How many different questions there are."""

    @abstractmethod
    def questions(self, seed: int) -> Iterator[Question]:
        """All `capacity` questions, each once, in an order drawn from the seed, made one at a time."""

    @abstractmethod
    def parse(self, text: str) -> str | None:
        """The answer in the form of `Question.answer`, or None where the text is more, less or other than one."""

    @abstractmethod
    def closeness(self, answer: str, given: str) -> float:
        """How near a wrong answer is to the right one: from 0 to below 1."""


EXAMPLE_QUESTION = Question(id="comparison-7-3", text="Is 7 greater than 3? Answer Yes or No.", answer="Yes")
