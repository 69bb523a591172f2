"""GRPO on numbers that can be followed by hand."""

import math

import pytest
import torch

from trainer.objective import grpo, k3

# Two completions, of 2 tokens and of 1; three samples of the first and one of the second.
MASK = torch.tensor([[True, True], [True, False]])
COUNTS = torch.tensor([3, 1])
ADVANTAGES = torch.tensor([1.0, -3.0])
LOGPROBS = torch.tensor([[-1.0, -2.0], [-0.5, 99.0]])
RATIOS = torch.tensor([[1.1, 1.5], [0.7, math.nan]])
OLD = LOGPROBS - RATIOS.log()
SETTINGS = {"beta": 0.0, "epsilon": 0.2, "epsilon_high": 0.28}


def test_worked_example() -> None:
    result = grpo(LOGPROBS, OLD, None, ADVANTAGES, MASK, COUNTS, 4, **SETTINGS)
    first = (1.1 + 1.28) / 2  # the second ratio is clipped to 1.28
    second = -3 * 0.8  # 0.7 is clipped to 0.8: the lower of -2.1 and -2.4
    assert result.loss.item() == pytest.approx(-(3 * first + 1 * second) / 4)
    assert result.clip_fraction.item() == pytest.approx((3 * 0.5 + 1 * 1) / 4)
    assert result.kl.item() == 0


def test_clipping_stops_only_what_went_too_far_in_its_own_direction() -> None:
    logprobs = LOGPROBS.clone().requires_grad_()
    grpo(logprobs, OLD, None, ADVANTAGES, MASK, COUNTS, 4, **SETTINGS).loss.backward()
    torch.testing.assert_close(logprobs.grad, torch.tensor([[-3 * 1.1 / 2 / 4, 0.0], [0.0, 0.0]]))

    turned = LOGPROBS.clone().requires_grad_()
    result = grpo(turned, OLD, None, -ADVANTAGES, MASK, COUNTS, 4, **SETTINGS)
    result.loss.backward()
    assert result.clip_fraction.item() == 0
    expected = torch.tensor([[3 * 1.1 / 2 / 4, 3 * 1.5 / 2 / 4], [-3 * 0.7 / 4, 0.0]])
    torch.testing.assert_close(turned.grad, expected)


def test_on_policy_the_ratio_is_one_and_the_gradient_is_the_policy_gradient() -> None:
    logprobs = LOGPROBS.clone().requires_grad_()
    result = grpo(logprobs, logprobs.detach(), None, ADVANTAGES, MASK, COUNTS, 4, **SETTINGS)
    result.loss.backward()
    assert result.loss.item() == pytest.approx(-(3 * 1.0 - 3.0) / 4)
    torch.testing.assert_close(logprobs.grad, torch.tensor([[-3 / 8, -3 / 8], [3 / 4, 0.0]]))


def test_kl_to_the_reference() -> None:
    gaps = torch.tensor([[0.1, -0.2], [0.0, math.nan]])
    estimate = [[math.exp(0.1) - 0.1 - 1, math.exp(-0.2) + 0.2 - 1], [0.0, 0.0]]
    torch.testing.assert_close(k3(LOGPROBS, LOGPROBS + gaps, MASK), torch.tensor(estimate))

    with_kl = grpo(LOGPROBS, OLD, LOGPROBS + gaps, ADVANTAGES, MASK, COUNTS, 4, **SETTINGS | {"beta": 0.5})
    without = grpo(LOGPROBS, OLD, None, ADVANTAGES, MASK, COUNTS, 4, **SETTINGS)
    kl = 3 * sum(estimate[0]) / 2 / 4
    assert with_kl.kl.item() == pytest.approx(kl, rel=1e-5)
    assert with_kl.loss.item() == pytest.approx(without.loss.item() + 0.5 * kl)


def test_micro_batches_add_up() -> None:
    whole = grpo(LOGPROBS, OLD, LOGPROBS - 0.1, ADVANTAGES, MASK, COUNTS, 4, **SETTINGS | {"beta": 0.5})
    parts = [
        grpo(
            LOGPROBS[row], OLD[row], LOGPROBS[row] - 0.1, ADVANTAGES[row], MASK[row], COUNTS[row], 4,
            **SETTINGS | {"beta": 0.5},
        )
        for row in (slice(0, 1), slice(1, 2), slice(2, 2))
    ]  # fmt: skip
    for name in ("loss", "kl", "clip_fraction"):
        torch.testing.assert_close(sum(getattr(part, name) for part in parts), getattr(whole, name))
