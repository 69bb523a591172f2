"""Alarms: signs in a step's report that something is wrong, though the run goes on."""

from collections.abc import Mapping
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


QUANTIZED = 0.3
"""Where engines compute in eight bits or fewer: FP8 sampled 10 times as far from bfloat16 as bfloat16 itself does, on
a tiny model (docs/gpu.md)."""


def quantized(vllm: Mapping[str, object]) -> bool:
    """Whether engines with these arguments (`engine.vllm`) quantise weights or cache."""
    return any(vllm.get(name) not in (None, "auto") for name in ("quantization", "kv_cache_dtype"))


def mismatch(logprob_gap: float, dtype: DType, lora: bool = False, quantized: bool = False) -> str | None:
    """What is wrong when sampler and trainer are so far apart (train-inference mismatch), and what to do; None when
    they are not.

    logprob_gap: nats per token, as in `RankReport`. dtype: of the weights. lora: whether an adapter is trained.
    quantized: see `quantized`.
    """
    largest = LARGEST_MISMATCH[dtype] * (WITH_LORA if lora and dtype == "bfloat16" else 1)
    if quantized:
        largest = max(largest, QUANTIZED)
    if logprob_gap <= largest:
        return None
    explained = f"{dtype} beside quantised engines" if quantized else dtype
    return (
        f"logprob_gap is {logprob_gap:.2g}, where {explained} explains at most {largest:g}: sampler and "
        "trainer do not hold the same policy. The engines' weights are stale, or the two compute differently (as "
        "with top_p, top_k and min_p where an engine cannot fork). Turn those off and set model.dtype: float32. If "
        "the gap stays, the weights do not arrive, and nothing that this run learns can be trusted."
    )
