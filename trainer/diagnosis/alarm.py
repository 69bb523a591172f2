"""Alarms: signs in a step's report that something is wrong, though the run goes on."""

from dataclasses import dataclass
from typing import Literal

DType = Literal["float32", "bfloat16"]

LOGPROB_GAP: dict[DType, float] = {"float32": 1e-3, "bfloat16": 0.05}
"""Mean |trainer - sampler| log-probability per token that rounding alone does not reach."""


@dataclass(frozen=True)
class Alarm:
    """name: of what is measured, as in `StepMetrics`. step: the first at which it was found. text: one line."""

    name: str
    step: int
    text: str


def logprob_gap(gap: float, dtype: DType) -> str | None:
    """What is wrong when sampler and trainer are so far apart, and what to do; None when they are not.

    gap: `RankReport.logprob_gap`. dtype: of the weights.
    """
    if gap <= LOGPROB_GAP[dtype]:
        return None
    return (
        f"logprob_gap is {gap:.2g}, where {dtype} explains at most {LOGPROB_GAP[dtype]:g}: sampler and trainer do "
        "not hold the same policy. The engines' weights are stale, or the two compute differently (as with top_p, "
        "top_k and min_p where an engine cannot fork). Turn those off and set model.dtype: float32. If the gap "
        "stays, the weights do not arrive, and nothing that this run learns can be trusted."
    )
