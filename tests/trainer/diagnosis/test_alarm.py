import math

import pytest

from trainer.diagnosis.alarm import mismatch
from trainer.run import DType


@pytest.mark.parametrize(
    ("dtype", "lora", "usual", "wrong"),
    [
        ("float32", False, 1e-3, 1.1e-3),
        ("float32", True, 1e-3, 1.1e-3),
        ("bfloat16", False, 0.15, 0.16),
        ("bfloat16", True, 0.3, 0.31),
    ],
)
def test_a_gap_that_rounding_does_not_explain(dtype: DType, lora: bool, usual: float, wrong: float) -> None:
    assert mismatch(usual, dtype, lora) is None
    text = mismatch(wrong, dtype, lora)
    assert text is not None
    for part in (f"logprob_gap is {wrong:g}", dtype, "do not hold the same policy", "set model.dtype: float32"):
        assert part in text


def test_a_gap_that_is_no_number() -> None:
    assert mismatch(math.nan, "float32")
