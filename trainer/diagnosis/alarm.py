"""Alarms: signs in a step's report that something is wrong, though the run goes on."""

from dataclasses import dataclass

from trainer.run import DType

LARGEST_MISMATCH: dict[DType, float] = {"float32": 1e-3, "bfloat16": 0.15}
"""Mean |trainer - sampler| log-probability per token that rounding alone does not reach."""

WITH_LORA = 2.0
"""Times as much in bfloat16: engines round the weights with what the adapter adds, ranks compute that apart."""


@dataclass(frozen=True)
class Alarm:
    """name: of the metric or cause. step: the first at which it was found. text: one line."""

    name: str
    step: int
    text: str


def mismatch(logprob_gap: float, dtype: DType, lora: bool = False) -> str | None:
    """What is wrong when sampler and trainer are so far apart (train-inference mismatch), and what to do; None when
    they are not.

    logprob_gap: nats per token, as in `RankReport`. dtype: of the weights. lora: whether an adapter is trained.
    """
    largest = LARGEST_MISMATCH[dtype] * (WITH_LORA if lora and dtype == "bfloat16" else 1)
    if logprob_gap <= largest:
        return None
    return (
        f"logprob_gap is {logprob_gap:.2g}, where {dtype} explains at most {largest:g}: sampler and "
        "trainer do not hold the same policy. The engines' weights are stale, or the two compute differently (as "
        "with top_p, top_k and min_p where an engine cannot fork). Turn those off and set model.dtype: float32. If "
        "the gap stays, the weights do not arrive, and nothing that this run learns can be trusted."
    )
