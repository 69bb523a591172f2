"""Partial credit is of use as long as no right answer is known, and misleads beside one."""

import numpy as np

from rewards.prompts import Verdict
from trainer.scored import ScoredGroup
from trainer.signal.kinds import right


def without_partial_credit(scored: ScoredGroup, best_reward: float) -> ScoredGroup:
    """The group with one reward, their mean over samples, for all completions that are not right; as it is where
    none is right.

    Partial credit tells how near an answer is, which is of use while no right one is known. Beside one it misleads: a
    near miss with half of the samples gains many times what a single right sample gains, and the prompt comes to rest
    on the near miss. The group's mean stays, and so do differences between right answers.
    """
    best = right(scored, best_reward)
    if best.all() or not best.any():
        return scored
    mean = float(np.average(scored.rewards[~best], weights=scored.group.counts[~best]))
    alike = {verdict.outcome: Verdict(mean, verdict.outcome) for verdict in scored.verdicts}
    verdicts = (
        verdict if is_best else alike[verdict.outcome]
        for verdict, is_best in zip(scored.verdicts, best.tolist(), strict=True)
    )
    return ScoredGroup(scored.group, tuple(verdicts))
