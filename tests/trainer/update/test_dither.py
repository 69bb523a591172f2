"""Masters that round to their weights, and lie anywhere else than in the middle."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny import make_tiny_model
from trainer.update.dither import dithered

RANK = """
import sys
import torch
from deepspeed.utils import safe_get_full_fp32_param
from configs.schema import TrainingSettings
from trainer.update.rank import Rank, RankSpec

training = TrainingSettings(ranks=1)
spec = RankSpec(0, sys.argv[1], None, "bfloat16", False, False, training, 8, None, "", 60.0, 0, False, False)
inside = []
for weight in Rank(spec)._engine.module.parameters():
    master = safe_get_full_fp32_param(weight)
    assert torch.equal(master.bfloat16(), weight)
    inside.append((master != weight.float()).flatten())
assert torch.cat(inside).float().mean() > 0.9
"""


@given(st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=50), st.integers(0, 2**63 - 1))
def test_the_policy_is_the_same_to_the_bit(values: list[float], seed: int) -> None:
    weight = torch.tensor(values).bfloat16()
    masters = dithered(weight, seed)
    assert masters.dtype == torch.float32 and masters.shape == weight.shape
    assert torch.equal(masters.bfloat16(), weight)
    assert torch.equal(masters, dithered(weight, seed))


@pytest.mark.parametrize("value", [0.03, -0.03, 1.25, 3e-20])
def test_masters_are_spread_evenly_over_their_cell(value: float) -> None:
    """So that any small step takes as many over a border as makes the mean change of the weights that step."""
    weight = torch.full((200_000,), value).bfloat16()
    unit = float(torch.nextafter(weight[0], torch.tensor(torch.inf).bfloat16()) - weight[0])
    masters = dithered(weight, seed=3).double()
    offsets = (masters - weight.double()) / unit
    assert offsets.min() < -0.499 and offsets.max() > 0.499
    assert offsets.mean().abs() < 0.003 and (offsets.std() - 12**-0.5).abs() < 0.003
    for share in (0.01, -0.1, 0.3):
        step = share * unit
        moved = (masters + step).bfloat16().double() - weight.double()
        assert float(moved.mean()) == pytest.approx(step, rel=0.05)
        stuck = (weight.double() + step).bfloat16().double() - weight.double()
        assert stuck.abs().max() == 0  # what happens without


def test_zero_stays() -> None:
    assert torch.equal(dithered(torch.zeros(9).bfloat16(), 1), torch.zeros(9))
    assert dithered(torch.tensor([1.0, 2.0, 0.5]).bfloat16(), 1).bfloat16().tolist() == [1.0, 2.0, 0.5]


def test_other_weights_have_other_random_numbers() -> None:
    weight = torch.full((8, 8), 0.3).bfloat16()
    assert not torch.equal(dithered(weight, 1), dithered(weight, 2))


def test_a_ranks_masters_are(tmp_path: Path) -> None:
    """In a process of its own: a rank joins a group of processes."""
    model = make_tiny_model(tmp_path / "model")
    subprocess.run([sys.executable, "-c", RANK, model], check=True, timeout=120)
