"""Partial credit is of use as long as no right answer is known, and misleads beside one."""

from rewards.prompts import Outcome, Verdict
from trainer.scored import OUTCOMES, ScoredGroup


def without_partial_credit(scored: ScoredGroup, best_reward: float) -> ScoredGroup:
    """The group with one reward, their mean over samples, for all completions that are not right; as it is where
    none is right.

    Partial credit tells how near an answer is, which is of use while no right one is known. Beside one it misleads: a
    near miss with half of the samples gains many times what a single right sample gains, and the prompt comes to rest
    on the near miss. The group's mean stays, and so do differences between right answers.
    """
    if not scored.holds_best(best_reward):
        return scored
    best = scored.right(best_reward)
    wrong = scored.rewards[~best]
    if not len(wrong) or wrong.max() == wrong.min():
        return scored
    counts = scored.group.counts[~best]
    mean = float((wrong * counts).sum() / counts.sum())
    alike: dict[Outcome, Verdict] = {outcome: Verdict(mean, outcome) for outcome in OUTCOMES}
    verdicts = (
        verdict if is_best else alike[verdict.outcome]
        for verdict, is_best in zip(scored.verdicts, best.tolist(), strict=True)
    )
    return ScoredGroup(scored.group, tuple(verdicts))
