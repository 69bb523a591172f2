"""Judges: from completions of a prompt to verdicts."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any, Protocol

from configs.schema import Shaping
from rewards.builtin import BuiltinTask
from rewards.errors import RewardError
from rewards.function import RewardFunction
from rewards.prompts import SAME_REWARD, Outcome, Prompt, TokenIds, Verdict
from rewards.shaping import verdict


@dataclass(frozen=True)
class Answer:
    """A completion, as a judge sees it. truncated: it was cut off by max_completion_length. policy_version: that
    sampled it."""

    text: str
    truncated: bool
    token_ids: TokenIds
    policy_version: int = 0


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
        given = self.function(prompt, [answer.text for answer in answers], [answer.token_ids for answer in answers])
        scores = [score for score in given.values if score is not None]
        return [
            verdict(None if score < 0 else score, answer.truncated, self.shaping)
            for score, answer in zip(scores, answers, strict=True)
        ]


@dataclass(frozen=True)
class FunctionJudge:
    """A user's functions give numbers, whose sum by weight is the reward; the outcome follows from it: `correct` from
    best_reward on, else `truncated` where the completion was cut off, else `wrong`."""

    functions: tuple[RewardFunction, ...]
    weights: tuple[float, ...]
    best_reward: float

    def __call__(self, prompt: Prompt, answers: Sequence[Answer]) -> Sequence[Verdict]:
        texts, tokens = [answer.text for answer in answers], [answer.token_ids for answer in answers]
        version = answers[0].policy_version if answers else 0
        given = [function(prompt, texts, tokens, version) for function in self.functions]
        metrics = {name: value for rewards in given for name, value in rewards.metrics.items()}
        columns = {name: column for rewards in given for name, column in rewards.extra.items()}
        verdicts = []
        for place, answer in enumerate(answers):
            parts = [rewards.values[place] for rewards in given]
            reward = self._sum(parts, prompt, answer)
            verdicts.append(
                Verdict(
                    reward,
                    self._outcome(reward, answer),
                    tuple(nan if part is None else part for part in parts) if len(parts) > 1 else (),
                    metrics,
                    {name: column[place] for name, column in columns.items()},
                )
            )
        return verdicts

    def _sum(self, parts: Sequence[float | None], prompt: Prompt, answer: Answer) -> float:
        """Of those that say something. Raises RewardError: none does."""
        said = [weight * part for weight, part in zip(self.weights, parts, strict=True) if part is not None]
        if said:
            return sum(said)
        names = ", ".join(function.spec for function in self.functions)
        raise RewardError(
            f"reward function {names} returned None for prompt {prompt.id} with completion {answer.text[:120]!r}, "
            "and no other one judged it. Return a number, such as 0.0 where nothing can be said."
        )

    def _outcome(self, reward: float, answer: Answer) -> Outcome:
        if reward >= self.best_reward - SAME_REWARD:
            return "correct"
        return "truncated" if answer.truncated else "wrong"
