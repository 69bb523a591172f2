"""What a task asks: prompts, and what a reward function says of an answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TokenIds: TypeAlias = "Sequence[int] | NDArray[np.int32]"
"""Of one completion."""

Message = Mapping[str, str]
"""One chat message: `{"role": "user", "content": "..."}`."""

Outcome = Literal["correct", "wrong", "malformed", "truncated"]

SAME_REWARD = 1e-6
"""Rewards no further apart than this are one reward: reward functions round."""


@dataclass(frozen=True)
class Prompt:
    """One question.

    id: unique inside the data set and stable between runs.
    messages: the chat, few-shot examples included; ends with the user's turn.
    columns: the other columns of the data set's row (answers, among others).
    token_ids: `messages` through the model's chat template, generation prompt included.
    text: the `prompt` of a data set that gives plain text, else None. TRL passes reward functions
        the prompt in the form the data set had; so does Cohort.
    """

    id: str
    messages: tuple[Message, ...]
    columns: Mapping[str, Any]
    token_ids: tuple[int, ...]
    text: str | None


@dataclass(frozen=True)
class Verdict:
    """What a reward function says of one completion.

    reward: finite.
    outcome: `correct` is the best reward the task can give; `truncated` was cut off by
        `max_completion_length`.
    parts: of several reward functions what each gave, without its weight; nan where one said nothing.
    metrics, extra: what the functions logged: numbers by name, of the completion's whole group; text by column.
    """

    reward: float
    outcome: Outcome
    parts: tuple[float, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    extra: Mapping[str, str] = field(default_factory=dict)


EXAMPLE_PROMPT = Prompt(
    id="comparison-7-3",
    messages=({"role": "user", "content": "Is 7 greater than 3? Answer Yes or No."},),
    columns={"answer": "Yes"},
    token_ids=(1, 4093, 198, 3706, 216),
    text=None,
)
EXAMPLE_VERDICT = Verdict(reward=1.0, outcome="correct")
