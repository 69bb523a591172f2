"""Judges: from completions of a prompt to verdicts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from configs.schema import Shaping
from rewards.builtin import BuiltinTask
from rewards.function import RewardFunction
from rewards.prompts import SAME_REWARD, Outcome, Prompt, Verdict
from rewards.shaping import verdict


@dataclass(frozen=True)
class Answer:
    """A completion, as a judge sees it. truncated: it was cut off by max_completion_length."""

    text: str
    truncated: bool
    token_ids: tuple[int, ...]


EXAMPLE_ANSWER = Answer(text="Yes", truncated=False, token_ids=(10539, 2))


class Judge(Protocol):
    def __call__(self, prompt: Prompt, answers: Sequence[Answer]) -> Sequence[Verdict]:
        """A verdict for each of the answers to `prompt`, in order."""
        ...


@dataclass(frozen=True)
class BuiltinJudge:
    task: BuiltinTask
    shaping: Shaping

    def __call__(self, prompt: Prompt, answers: Sequence[Answer]) -> Sequence[Verdict]:
        right = prompt.columns["answer"]
        return [verdict(self._closeness(right, answer.text), answer.truncated, self.shaping) for answer in answers]

    def _closeness(self, right: str, text: str) -> float | None:
        given = self.task.parse(text)
        if given is None:
            return None
        return 1.0 if given == right else self.task.closeness(right, given)


class GymJudge:
    """The scorers of the package reasoning-gym, called through rewards/gym_scores.py in a process of their own."""

    def __init__(self, shaping: Shaping, timeout: float) -> None:
        self.shaping, self.timeout = shaping, timeout
        self.function = RewardFunction(f"{Path(__file__).with_name('gym_scores.py')}:scores", timeout)

    def __reduce__(self) -> tuple[Any, ...]:
        return GymJudge, (self.shaping, self.timeout)  # the file's path is that of the machine it is sent to

    def __call__(self, prompt: Prompt, answers: Sequence[Answer]) -> Sequence[Verdict]:
        scores = self.function(prompt, [answer.text for answer in answers], [answer.token_ids for answer in answers])
        return [
            verdict(None if score < 0 else score, answer.truncated, self.shaping)
            for score, answer in zip(scores, answers, strict=True)
        ]


@dataclass(frozen=True)
class FunctionJudge:
    """A user's function gives numbers; the outcome follows from them: `correct` from best_reward on, else
    `truncated` where the completion was cut off, else `wrong`."""

    function: RewardFunction
    best_reward: float

    def __call__(self, prompt: Prompt, answers: Sequence[Answer]) -> Sequence[Verdict]:
        rewards = self.function(prompt, [answer.text for answer in answers], [answer.token_ids for answer in answers])
        return [
            Verdict(reward, self._outcome(reward, answer)) for reward, answer in zip(rewards, answers, strict=True)
        ]

    def _outcome(self, reward: float, answer: Answer) -> Outcome:
        if reward >= self.best_reward - SAME_REWARD:
            return "correct"
        return "truncated" if answer.truncated else "wrong"
