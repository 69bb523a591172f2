"""Chances: what a few samples say of the next ones.

Shares are not known, only counts. So every chance here is a posterior predictive under Jeffreys' prior, a Dirichlet
distribution with 1/2 for every kind of sample (Jeffreys 1946; Gelman et al., Bayesian Data Analysis, section 2.8):
none right of 64 samples is no proof that there is no right one among the next 64.
"""

from collections.abc import Mapping
from math import exp, lgamma

PRIOR = 0.5
"""Jeffreys' prior: as if half a sample of every kind had been seen before."""


def chance_of_right(correct: int, samples: int, n: int) -> float:
    """Chance that `n` further samples hold at least one right answer, after `correct` of `samples` were right.

    >>> round(chance_of_right(correct=1, samples=64, n=64), 2)
    0.65
    """
    wrong = samples - correct + PRIOR
    return 1 - _all_of_one_kind(wrong, correct + PRIOR + wrong, n)


def chance_of_contrast(correct: int, samples: int, n: int) -> float:
    """Chance that `n` further samples hold at least one right answer and one that is not right.

    >>> round(chance_of_contrast(correct=64, samples=64, n=8), 2)
    0.06
    """
    right, wrong = correct + PRIOR, samples - correct + PRIOR
    return 1 - _all_of_one_kind(wrong, right + wrong, n) - _all_of_one_kind(right, right + wrong, n)


def chance_of_signal(counts_by_reward: Mapping[float, int], n: int) -> float:
    """Chance that `n` further samples do not all have one reward, after the rewards counted.

    One kind more stands for all rewards not seen yet, so that one reward in 256 samples does not mean 0.

    >>> round(chance_of_signal({1.0: 32, -1.0: 32}, n=8), 2), round(chance_of_signal({-1.0: 256}, n=256), 2)
    (0.99, 0.29)
    """
    kinds = [PRIOR, *(count + PRIOR for count in counts_by_reward.values())]
    return 1 - sum(_all_of_one_kind(kind, sum(kinds), n) for kind in kinds)


def _all_of_one_kind(kind: float, all_kinds: float, n: int) -> float:
    """Chance that all of the next `n` samples are of the kind whose prior and count add up to `kind`: the product
    of (kind + i) / (all_kinds + i) over i < n."""
    return exp(lgamma(kind + n) - lgamma(kind) + lgamma(all_kinds) - lgamma(all_kinds + n))
