"""Levelling: where a right answer was sampled, the others are wrong alike."""

from dataclasses import replace

import numpy as np

from trainer.scored import ScoredGroup
from trainer.signal.kinds import is_right


def levelled(scored: ScoredGroup, best_reward: float) -> ScoredGroup:
    """The group with one reward, their mean over samples, for all completions that are not right; as it is where
    none is right.

    Partial credit tells how near an answer is, which is of use while no right one is known. Beside one it misleads: a
    near miss with half of the samples gains many times what a single right sample gains, and the prompt comes to rest
    on the near miss. The group's mean stays, and so do differences between right answers.
    """
    right = np.array([is_right(verdict, best_reward) for verdict in scored.verdicts])
    if right.all() or not right.any():
        return scored
    mean = float(np.average(scored.rewards[~right], weights=scored.group.counts[~right]))
    verdicts = (
        verdict if best else replace(verdict, reward=mean)
        for verdict, best in zip(scored.verdicts, right, strict=True)
    )
    return replace(scored, verdicts=tuple(verdicts))
