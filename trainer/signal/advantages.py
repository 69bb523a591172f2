"""Advantages: how much better than its group a completion did."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from configs.schema import TrainingSettings, reward_scale
from trainer.scored import EXAMPLE_SCORED_GROUP, ScoredGroup
from trainer.signal.spread import spread

STD_EPSILON = 1e-4
"""Keeps the division finite when rewards hardly differ; TRL's value."""


@dataclass(frozen=True)
class Lesson:
    """A scored group that is trained on.

    advantages: [completions] of each distinct completion, in the order of `scored.group.completions`; their
        mean over the group's samples is 0.
    in_loss: [completions] bool, true where the completion takes part in the loss.
    weights: [completions] how many samples each stands for in the loss: its count, 0 outside the loss, or others as
        well (trainer/signal/thinning.py).
    scale: how many samples of a full group each sample stands for.
    """

    scored: ScoredGroup
    advantages: NDArray[np.float64]
    in_loss: NDArray[np.bool_]
    weights: NDArray[np.float64]
    scale: float = 1.0

    @property
    def num_samples(self) -> float:
        """Samples that it stands for, those that take no part in the loss too."""
        return self.scale * self.scored.group.num_generations

    @property
    def num_tokens(self) -> float:
        """Completion tokens that it stands for in the loss."""
        return self.scale * self._tokens

    @property
    def dense_tokens(self) -> int:
        """Tokens that one row for each of its samples in the loss would have, without padding."""
        group = self.scored.group
        return len(group.prompt.token_ids) * int(group.counts @ self.in_loss) + self._tokens

    @property
    def _tokens(self) -> int:
        group = self.scored.group
        return int((group.counts * group.lengths) @ self.in_loss)

    def standing_for(self, num_generations: int) -> "Lesson":
        """With the weight of a group of so many samples, if it has fewer."""
        scale = max(1.0, num_generations / self.scored.group.num_generations)
        return self if scale == 1 else replace(self, weights=self.weights * scale, scale=scale)


def assign(
    scored: Sequence[ScoredGroup], training: TrainingSettings, spreading: Sequence[bool] | None = None
) -> tuple[Lesson, ...]:
    """A lesson of each of a step's groups. With `scale_rewards: batch` pass all of them, those that teach nothing
    too: a batch's spread is over every sample of the step.

    spreading: which groups are trained on to `spread`, not by their rewards; None for none.

    Means and standard deviations (of the population) are over samples, not distinct completions.
    """
    gain = over_others if training.loss_type == "rloo" else over_mean
    scale = reward_scale(training)
    if scale == "none":
        divisors = [1.0] * len(scored)
    elif scale == "batch":
        divisors = [_std(scored) + STD_EPSILON] * len(scored)
    else:
        divisors = [group.reward_std + STD_EPSILON for group in scored]
    return tuple(
        _lesson(
            group,
            spread(group) if spreads else gain(group) / divisor,
            _in_loss(group, training.mask_truncated_completions),
        )
        for group, divisor, spreads in zip(scored, divisors, spreading or [False] * len(scored), strict=True)
    )


def over_mean(scored: ScoredGroup) -> NDArray[np.float64]:
    """[completions] reward less the group's mean (DeepSeekMath, arXiv 2402.03300, section 4.1.2; without a division,
    Dr. GRPO, arXiv 2503.20783)."""
    return scored.rewards - scored.reward_mean


def over_others(scored: ScoredGroup) -> NDArray[np.float64]:
    """[completions] reward less the mean of the group's *other* samples (RLOO, arXiv 2402.14740).

    The others' mean is (n · mean - r) / (n - 1), so this is n / (n - 1) times `over_mean`.
    """
    n = scored.group.num_generations
    return over_mean(scored) * (n / (n - 1))


def _std(scored: Sequence[ScoredGroup]) -> float:
    """Over all samples of all groups, around their common mean."""
    rewards = np.concatenate([group.rewards for group in scored])
    counts = np.concatenate([group.group.counts for group in scored])
    return float(np.sqrt(np.average((rewards - np.average(rewards, weights=counts)) ** 2, weights=counts)))


def _lesson(scored: ScoredGroup, advantages: NDArray[np.float64], in_loss: NDArray[np.bool_]) -> Lesson:
    """Where each completion stands for its own samples."""
    return Lesson(scored, advantages, in_loss, np.where(in_loss, scored.group.counts, 0.0))


def _in_loss(scored: ScoredGroup, mask_truncated: bool) -> NDArray[np.bool_]:
    """DAPO's overlong filtering (arXiv 2503.14476, section 3.4): not what was cut off, if so configured."""
    if not mask_truncated:
        return np.ones(len(scored.verdicts), np.bool_)
    finished = [completion.finish_reason != "length" for completion in scored.group.completions]
    return np.array(finished, np.bool_)


EXAMPLE_LESSON = _lesson(EXAMPLE_SCORED_GROUP, np.array([0.57726, -1.73178]), np.array([True, True]))
