import math

import pytest

from trainer.diagnosis.alarm import mismatch, quantized
from trainer.run import DType


@pytest.mark.parametrize(
    ("dtype", "lora", "quantised", "usual", "wrong"),
    [
        ("float32", False, False, 1e-3, 1.1e-3),
        ("float32", True, False, 1e-3, 1.1e-3),
        ("bfloat16", False, False, 0.15, 0.16),
        ("bfloat16", True, False, 0.3, 0.31),
        ("bfloat16", False, True, 0.3, 0.31),
        ("float32", False, True, 0.3, 0.31),
    ],
)
def test_a_gap_that_rounding_does_not_explain(
    dtype: DType, lora: bool, quantised: bool, usual: float, wrong: float
) -> None:
    assert mismatch(usual, dtype, lora, quantised) is None
    text = mismatch(wrong, dtype, lora, quantised)
    assert text is not None
    for part in (f"logprob_gap is {wrong:g}", dtype, "do not hold the same policy", "set model.dtype: float32"):
        assert part in text


def test_a_gap_that_is_no_number() -> None:
    assert mismatch(math.nan, "float32")


@pytest.mark.parametrize(
    ("vllm", "is_so"),
    [
        ({}, False),
        ({"max_num_seqs": 64}, False),
        ({"kv_cache_dtype": "auto"}, False),
        ({"quantization": None}, False),
        ({"quantization": "fp8"}, True),
        ({"kv_cache_dtype": "fp8"}, True),
    ],
)
def test_which_engines_quantise(vllm: dict[str, object], is_so: bool) -> None:
    assert quantized(vllm) is is_so
