"""Whether counts look drawn from given probabilities."""

import numpy as np
from numpy.typing import ArrayLike

SUSPICIOUS = 4.0
"""Standard deviations; chance goes this far in one of 30,000 draws, and the tests' draws are seeded."""


def surprise(counts: ArrayLike, probabilities: ArrayLike) -> float:
    """How many standard deviations Pearson's chi-square of `counts` lies above its mean, or below: counts that
    follow the probabilities too closely are not independent draws. (Wilson and Hilferty's approximation.)

    Outcomes expected less than 8 times are taken together. An impossible outcome that occurred is infinite.
    """
    observed, expected = np.asarray(counts, float), np.asarray(probabilities, float)
    expected = expected / expected.sum() * observed.sum()
    if (observed[expected == 0] > 0).any():
        return float("inf")
    rare = expected < 8
    observed = np.append(observed[~rare], observed[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    observed, expected = observed[expected > 0], expected[expected > 0]
    freedom = len(expected) - 1
    chi_square = ((observed - expected) ** 2 / expected).sum()
    spread = 2 / (9 * freedom)
    return float((np.cbrt(chi_square / freedom) - (1 - spread)) / np.sqrt(spread))
