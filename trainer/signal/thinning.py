"""Thinning: an update on some of a group's distinct completions that is, on average, the one on all of them.

An update costs what its distinct tokens cost. Where answers hardly repeat, a group of 128 samples is 128 completions
to compute, of which a quarter, chosen well, says nearly the same. They are chosen in proportion to what they may
contribute, and each stands for those like it that were left out: 1 / its chance of being chosen
(Horvitz and Thompson 1952), so that loss, gradient and metrics of an update are unbiased.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from trainer.signal.advantages import Lesson

ROUNDING = 1e-12
"""Of running sums of chances: one that comes to a whole number has not passed it."""


def thinned(lesson: Lesson, limit: int | None, seed: int) -> Lesson:
    """The lesson with at most `limit` distinct completions in the loss; the same seed chooses the same."""
    taking_part = np.flatnonzero(lesson.weights)
    if limit is None or len(taking_part) <= limit:
        return lesson
    weights, advantages = lesson.weights[taking_part], lesson.advantages[taking_part]
    size = np.abs(advantages) if advantages.any() else np.ones(len(advantages))
    # The mean keeps those in whose advantage is about 0: they have a KL to the reference, and are measured.
    chances = inclusion(weights * (size + np.average(size, weights=weights)), limit)
    # Neighbours stand in for each other: chosen along the advantages, right and wrong keep their shares.
    order = np.argsort(advantages, kind="stable")
    chosen = order[systematic(chances[order], np.random.default_rng(seed).random())]
    thin = np.zeros_like(lesson.weights)
    thin[taking_part[chosen]] = weights[chosen] / chances[chosen]
    return replace(lesson, weights=thin)


def inclusion(sizes: NDArray[np.float64], limit: int) -> NDArray[np.float64]:
    """[items] chances of being chosen that add up to `limit`, in proportion to positive `sizes` as far as no chance
    exceeds 1. There are more items than `limit`."""
    largest_first = np.argsort(-sizes, kind="stable")
    ordered = sizes[largest_first]
    rest = np.cumsum(ordered[::-1])[::-1]  # [items] of each and all after it
    left = limit - np.arange(len(sizes))  # to be chosen if all before are certain
    certain = int(np.argmax(ordered * left < rest))  # the first that need not be
    chances = np.ones(len(sizes))
    chances[largest_first[certain:]] = ordered[certain:] * left[certain] / rest[certain]
    return chances


def systematic(chances: NDArray[np.float64], start: float) -> NDArray[np.int64]:
    """Indices of the chosen: where the running sum of the chances passes start, start + 1, ... (Madow 1949), each
    with its chance if `start` is uniform in [0, 1)."""
    passed = np.ceil(np.cumsum(chances) - start - ROUNDING)
    passed[-1] = np.round(chances.sum())  # whatever the sum's rounding
    return np.flatnonzero(np.diff(passed, prepend=0.0))
