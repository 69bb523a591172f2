"""Advantages: how much better than its group a completion did."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.scored import EXAMPLE_SCORED_GROUP, ScoredGroup

STD_EPSILON = 1e-4
"""Keeps the division finite when rewards hardly differ; TRL's value."""


@dataclass(frozen=True)
class Lesson:
    """A scored group that is trained on.

    advantages: [completions] of each distinct completion, in the order of `scored.group.completions`; their
        mean over the group's samples is 0.
    """

    scored: ScoredGroup
    advantages: NDArray[np.float64]


def assign(scored: ScoredGroup) -> Lesson:
    """GRPO: (reward - mean) / (std + ε), mean and population std over the group's samples, not its distinct
    completions (DeepSeekMath, arXiv 2402.03300, section 4.1.2)."""
    return Lesson(scored, (scored.rewards - scored.reward_mean) / (scored.reward_std + STD_EPSILON))


EXAMPLE_LESSON = Lesson(EXAMPLE_SCORED_GROUP, np.array([0.57726, -1.73178]))
