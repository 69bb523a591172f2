"""Partial credit is of use as long as no right answer is known, and misleads beside one."""

from collections.abc import Sequence

import numpy as np

from rewards.prompts import Outcome, Verdict
from trainer.scored import OUTCOMES, ScoredGroup, segment_sums


def without_partial_credit(groups: Sequence[ScoredGroup], best_reward: float) -> list[ScoredGroup]:
    """The groups with one reward, their mean over samples, for all completions that are not right; those in which
    none is right as they are.

    Partial credit tells how near an answer is, which is of use while no right one is known. Beside one it misleads: a
    near miss with half of the samples gains many times what a single right sample gains, and the prompt comes to rest
    on the near miss. A group's mean stays, and so do differences between right answers.
    """
    changed = list(groups)
    some = [index for index, group in enumerate(groups) if group.holds_best(best_reward)]
    if not some:
        return changed
    right = [groups[index].right(best_reward) for index in some]
    wrong = ~np.concatenate(right)
    rewards = np.concatenate([groups[index].rewards for index in some])[wrong]
    counts = np.concatenate([groups[index].group.counts for index in some])[wrong]
    lengths = np.array([len(best) - int(best.sum()) for best in right])
    some, right, lengths = (
        [index for index, length in zip(some, lengths, strict=True) if length],
        [best for best, length in zip(right, lengths, strict=True) if length],
        lengths[lengths > 0],
    )
    starts = np.cumsum(lengths) - lengths
    means = segment_sums(rewards * counts, lengths) / np.add.reduceat(counts, starts) if some else lengths
    spread = np.maximum.reduceat(rewards, starts) - np.minimum.reduceat(rewards, starts) if some else lengths
    for index, best, mean, differ in zip(some, right, means.tolist(), spread.tolist(), strict=True):
        if differ:
            alike: dict[Outcome, Verdict] = {outcome: Verdict(mean, outcome) for outcome in OUTCOMES}
            verdicts = (
                verdict if is_best else alike[verdict.outcome]
                for verdict, is_best in zip(groups[index].verdicts, best.tolist(), strict=True)
            )
            changed[index] = ScoredGroup(groups[index].group, tuple(verdicts))
    return changed
