"""Overlong completions: DAPO's soft punishment."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from trainer.scored import ScoredGroup


def soft_punished(scored: ScoredGroup, max_completion_length: int, soft_punish_cache: int | None) -> ScoredGroup:
    """The group with `soft_overlong_punishment` added to every reward, or as it is without a `soft_punish_cache`.
    Reasons stay."""
    if soft_punish_cache is None:
        return scored
    lengths = scored.group.lengths
    punishments = soft_overlong_punishment(lengths, max_completion_length, soft_punish_cache)
    verdicts = (
        replace(verdict, reward=verdict.reward + punishment)
        for verdict, punishment in zip(scored.verdicts, punishments.tolist(), strict=True)
    )
    return replace(scored, verdicts=tuple(verdicts))


def soft_overlong_punishment(
    lengths: NDArray[np.int64], max_completion_length: int, soft_punish_cache: int
) -> NDArray[np.float64]:
    """0 up to max_completion_length - soft_punish_cache tokens, and from there in a line down to -1 at
    max_completion_length (DAPO, arXiv 2503.14476, equation 13). Lengths are tokens, the end of turn included."""
    return np.clip((max_completion_length - soft_punish_cache - lengths) / soft_punish_cache, -1.0, 0.0)
