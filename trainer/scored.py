"""A scored group: generation's group joined with rewards' verdicts."""

from dataclasses import dataclass
from functools import cached_property
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from generation.groups import EXAMPLE_GROUP, Group
from rewards.prompts import Verdict


@dataclass(frozen=True)
class ScoredGroup:
    """verdicts: one for each of `group.completions`, in the same order."""

    group: Group
    verdicts: tuple[Verdict, ...]

    @cached_property
    def rewards(self) -> NDArray[np.float64]:
        """[completions] reward of each distinct completion."""
        return np.array([verdict.reward for verdict in self.verdicts], dtype=np.float64)

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


EXAMPLE_SCORED_GROUP = ScoredGroup(group=EXAMPLE_GROUP, verdicts=(Verdict(1.0, "correct"), Verdict(-0.5, "wrong")))
