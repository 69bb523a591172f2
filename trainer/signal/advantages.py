"""Advantages: how much better than its group a completion did."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from configs.schema import TrainingSettings, reward_scale
from trainer.scored import EXAMPLE_SCORED_GROUP, ScoredGroup
from trainer.signal.kinds import answers

STD_EPSILON = 1e-4
"""Keeps the division finite when rewards hardly differ; TRL's value."""

LARGEST_SHARE = 0.1
"""Of one wrong answer among all, before `spread` leads away from it."""


@dataclass(frozen=True)
class Lesson:
    """A scored group that is trained on.

    advantages: [completions] of each distinct completion, in the order of `scored.group.completions`; their
        mean over the group's samples is 0.
    in_loss: [completions] bool, true where the completion takes part in the loss.
    """

    scored: ScoredGroup
    advantages: NDArray[np.float64]
    in_loss: NDArray[np.bool_]


def assign(
    scored: Sequence[ScoredGroup], training: TrainingSettings, spreading: Sequence[bool] | None = None
) -> tuple[Lesson, ...]:
    """A lesson of each of a step's groups. Pass all of them, those that teach nothing too: a batch's spread is
    over every sample of the step.

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
        Lesson(
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


def spread(scored: ScoredGroup) -> NDArray[np.float64]:
    """[completions] advantages that lead to more and closer answers, and to none in particular.

    With p the share of an answer among the samples (all completions that say the same) and u its share among the
    answers that earn at least their mean reward, no answer above `LARGEST_SHARE`: u / p - 1, and -1 for other answers
    and for what is none. All answers count where those are too few to keep below that share. The mean over samples is
    0, and the gradient is that of the cross-entropy from u to the policy: what crowding and distant answers lose the
    others gain in proportion, so that a right one, if it is among the reachable, turns up. Divided by the standard
    deviation where that is above 1, as rewards are.
    """
    said, counts = answers(scored), scored.group.counts
    share = dict.fromkeys(said, 0.0)
    reward = dict.fromkeys(said, 0.0)
    for answer, count, verdict in zip(said, counts, scored.verdicts, strict=True):
        share[answer] += count / scored.group.num_generations
        reward[answer] = verdict.reward
    given = [answer for answer in share if answer is not None]
    mean = np.average([reward[answer] for answer in given], weights=[share[answer] for answer in given])
    closer = [answer for answer in given if reward[answer] >= mean]
    wanted = closer if len(closer) >= 1 / LARGEST_SHARE else given
    target = _capped({answer: share[answer] for answer in wanted})
    advantages = np.array(
        [(0.0 if answer is None else target.get(answer, 0.0)) / share[answer] - 1 for answer in said]
    )
    std = float(np.sqrt(np.average(advantages**2, weights=counts)))
    return advantages / max(1.0, std)


def _capped(shares: Mapping[str, float]) -> dict[str, float]:
    """`shares` in proportion, adding up to 1, none above `LARGEST_SHARE`, or above 1 / len(shares) where they are too
    few for that."""
    cap = max(LARGEST_SHARE, 1 / len(shares))
    crowding: set[str] = set()
    while True:
        rest = sum(p for answer, p in shares.items() if answer not in crowding)
        left = 1 - cap * len(crowding)
        capped = {a: cap if a in crowding else p / rest * left for a, p in shares.items()}
        above = {answer for answer, p in capped.items() if p > cap + 1e-9}
        if not above:
            return capped
        crowding |= above


def _std(scored: Sequence[ScoredGroup]) -> float:
    """Over all samples of all groups, around their common mean."""
    rewards = np.concatenate([group.rewards for group in scored])
    counts = np.concatenate([group.group.counts for group in scored])
    return float(np.sqrt(np.average((rewards - np.average(rewards, weights=counts)) ** 2, weights=counts)))


def _in_loss(scored: ScoredGroup, mask_truncated: bool) -> NDArray[np.bool_]:
    """DAPO's overlong filtering (arXiv 2503.14476, section 3.4): not what was cut off, if so configured."""
    finished = [completion.finish_reason != "length" for completion in scored.group.completions]
    return np.array(finished) | (not mask_truncated)


EXAMPLE_LESSON = Lesson(EXAMPLE_SCORED_GROUP, np.array([0.57726, -1.73178]), np.array([True, True]))
