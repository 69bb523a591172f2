"""A scored group: generation's group joined with rewards' verdicts."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from generation.groups import EXAMPLE_GROUP, Group
from rewards.prompts import SAME_REWARD, Outcome, Verdict

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
CODES = {outcome: code for code, outcome in enumerate(OUTCOMES)}
CORRECT, ANSWERS = CODES["correct"], {CODES["correct"], CODES["wrong"]}


@dataclass(frozen=True)
class ScoredGroup:
    """verdicts: one for each of `group.completions`, in the same order. What follows from them is made once: it is
    asked for many times in a step."""

    group: Group
    verdicts: tuple[Verdict, ...]

    @cached_property
    def rewards(self) -> NDArray[np.float64]:
        """[completions] reward of each distinct completion."""
        return np.array([verdict.reward for verdict in self.verdicts], dtype=np.float64)

    @cached_property
    def reward_low(self) -> float:
        """Of any completion."""
        return float(self.rewards.min())

    @cached_property
    def reward_high(self) -> float:
        """Of any completion."""
        return float(self.rewards.max())

    @cached_property
    def reward_mean(self) -> float:
        """Mean over the group's samples (counts as weights)."""
        return self.mean(self.rewards)

    @cached_property
    def reward_std(self) -> float:
        """Population standard deviation over the group's samples."""
        return sqrt(self.mean((self.rewards - self.reward_mean) ** 2))

    def mean(self, values: NDArray[np.float64]) -> float:
        """Of [completions] values, over the group's samples."""
        return float((values * self.group.counts).sum() / self.group.num_generations)

    @cached_property
    def outcomes(self) -> NDArray[np.int8]:
        """[completions] outcome of each verdict, as its place in `OUTCOMES`."""
        return np.array([CODES[verdict.outcome] for verdict in self.verdicts], dtype=np.int8)

    @cached_property
    def samples(self) -> dict[Outcome, int]:
        """How many samples had which outcome."""
        samples = dict.fromkeys(OUTCOMES, 0)
        for verdict, completion in zip(self.verdicts, self.group.completions, strict=True):
            samples[verdict.outcome] += completion.count
        return samples

    @cached_property
    def answers(self) -> tuple[str | None, ...]:
        """[completions] what each answers, `normalized`; None where it is no answer."""
        return tuple(
            normalized(completion.text) if code in ANSWERS else None
            for completion, code in zip(self.group.completions, self.outcomes.tolist(), strict=True)
        )

    @cached_property
    def samples_of_answer(self) -> Mapping[str, int]:
        """How many samples say what, of those that are answers."""
        samples: dict[str, int] = {}
        for answer, count in zip(self.answers, self.group.counts.tolist(), strict=True):
            if answer is not None:
                samples[answer] = samples.get(answer, 0) + count
        return samples

    def right(self, best_reward: float) -> NDArray[np.bool_]:
        """[completions] which are right answers; one that was punished for its length is."""
        right: NDArray[np.bool_] = (self.outcomes == CORRECT) | (self.rewards >= best_reward - SAME_REWARD)
        return right

    def holds_best(self, best_reward: float) -> bool:
        """Whether a right answer is among the completions."""
        return self.samples["correct"] > 0 or self.reward_high >= best_reward - SAME_REWARD


def normalized(text: str) -> str:
    """Letters and digits only, so that "No" and "no." are one answer."""
    return "".join(filter(str.isalnum, text.casefold()))


EXAMPLE_SCORED_GROUP = ScoredGroup(group=EXAMPLE_GROUP, verdicts=(Verdict(1.0, "correct"), Verdict(-0.5, "wrong")))
