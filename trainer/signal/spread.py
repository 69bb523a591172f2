"""Spread: what a group without a right answer is trained on instead of its rewards."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from trainer.scored import ScoredGroup

LARGEST_SHARE = 0.1
"""Of one wrong answer among all, before `spread` leads away from it."""


def spread(scored: ScoredGroup) -> NDArray[np.float64]:
    """[completions] advantages that lead to more and closer answers, and to none in particular.

    With p the share of an answer among the samples (all completions that say the same) and u its share among the
    answers that earn at least their mean reward, no answer above `LARGEST_SHARE`: u / p - 1, and -1 for other answers
    and for what is none. All answers count where those are too few to keep below that share. The mean over samples is
    0, and the gradient is that of the cross-entropy from u to the policy: what crowding and distant answers lose the
    others gain in proportion, so that a right one, if it is among the reachable, turns up. Divided by the standard
    deviation where that is above 1, as rewards are.
    """
    advantages = _led(scored)
    std = float(np.sqrt(np.average(advantages**2, weights=scored.group.counts)))
    return advantages / max(1.0, std)


def moved(scored: ScoredGroup) -> float:
    """Share of the samples, 0 to 1, that would be another answer, or one, if the policy were what `spread` leads to:
    the total variation between them."""
    return float(np.average(np.abs(_led(scored)), weights=scored.group.counts)) / 2


def _led(scored: ScoredGroup) -> NDArray[np.float64]:
    """[completions] u / p - 1."""
    said = scored.answers
    share = dict.fromkeys(said, 0.0)
    reward = dict.fromkeys(said, 0.0)
    for answer, count, verdict in zip(said, scored.group.counts, scored.verdicts, strict=True):
        share[answer] += count / scored.group.num_generations
        reward[answer] = verdict.reward
    given = [answer for answer in share if answer is not None]
    mean = np.average([reward[answer] for answer in given], weights=[share[answer] for answer in given])
    closer = [answer for answer in given if reward[answer] >= mean]
    wanted = closer if len(closer) >= 1 / LARGEST_SHARE else given
    target = _capped({answer: share[answer] for answer in wanted})
    return np.array([(0.0 if answer is None else target.get(answer, 0.0)) / share[answer] - 1 for answer in said])


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
