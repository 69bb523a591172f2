"""Objectives on numbers that can be followed by hand."""

import math
from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from configs.schema import TrainingSettings
from trainer.update.objective import MicroBatch, Objective, Sizes, k3, objective, sampler_correction

# Two completions, of 2 tokens and of 1; three samples of the first and one of the second. Padding holds rubbish.
LOGPROBS = torch.tensor([[-1.0, -2.0], [-0.5, 99.0]])
RATIOS = torch.tensor([[1.1, 1.5], [0.7, math.nan]])
OLD = LOGPROBS - RATIOS.log()
BATCH = MicroBatch(
    logprobs=LOGPROBS,
    old_logprobs=OLD,
    sampler_logprobs=OLD,
    ref_logprobs=None,
    advantages=torch.tensor([1.0, -3.0]),
    mask=torch.tensor([[True, True], [True, False]]),
    weights=torch.tensor([3, 1]),
)
SIZES = Sizes(num_samples=4, num_tokens=7, max_completion_length=4)

OBJECTIVES: dict[str, dict[str, Any]] = {
    "grpo": {"loss_type": "grpo"},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "dapo": {"loss_type": "dapo"},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence"},
    "cispo": {"loss_type": "cispo"},
    "rloo": {"loss_type": "rloo"},
}


def of(name: str, batch: MicroBatch = BATCH, epsilon_high: float = 0.28, **settings: Any) -> Objective:
    """With epsilon 0.2, but for cispo, which has no lower limit."""
    epsilon = None if name == "cispo" else 0.2
    training = {"epsilon": epsilon, "epsilon_high": epsilon_high, "vllm_importance_sampling_mode": "off"}
    return objective(batch, SIZES, TrainingSettings(**training | OBJECTIVES[name] | settings), lagged=False)


# Tokens 1.5 and 0.7 leave the range: clipped gains are 1 · (1.1, 1.28), and min(-3 · 0.7, -3 · 0.8) = -2.4.
# Counted they sum to 3 · 2.38 - 2.4 = 4.74. Clipped tokens: 3 + 1 of 7.
WORKED = {
    "grpo": (-(3 * 2.38 / 2 - 2.4) / 4, 4 / 7),  # mean over a completion's tokens, then over 4 samples
    "dr_grpo": (-4.74 / (4 * 4), 4 / 7),  # over 4 samples of 4 possible tokens
    "dapo": (-4.74 / 7, 4 / 7),  # over 7 tokens
    "gspo": (-(3 * 1.28 - 2.4) / 4, 7 / 7),  # ratios sqrt(1.1 · 1.5) = 1.2845, clipped to 1.28, and 0.7, to 0.8
    # -(3 · (1.1 · -1 + 1.28 · -2) + 0.7 · -3 · -0.5) / 7: only 1.5 is cut, and 0.7 stays
    "cispo": (-(3 * -3.66 + 1.05) / 7, 3 / 7),
    "rloo": (-(3 * 1.28 - 2.4) / 4, 7 / 7),  # ratios 1.1 · 1.5 = 1.65, clipped to 1.28, and 0.7, to 0.8
}


@pytest.mark.parametrize("name", WORKED)
def test_worked_example(name: str) -> None:
    result = of(name)
    assert (result.loss.item(), result.clip_fraction.item()) == pytest.approx(WORKED[name])
    assert (result.kl.item(), result.logprob_gap.item()) == (0, 0)


def test_sequence_ratios_that_are_not_clipped() -> None:
    assert of("gspo", epsilon_high=0.3).loss.item() == pytest.approx(-(3 * math.sqrt(1.65) - 2.4) / 4)
    assert of("rloo", epsilon_high=0.7).loss.item() == pytest.approx(-(3 * 1.65 - 2.4) / 4)
    assert of("rloo", epsilon_high=0.7).clip_fraction.item() == pytest.approx(1 / 7)


# By token: the gradient is that of the surrogate, count · A · ratio, over the divisor; clipped tokens have none.
GRADIENTS = {
    "grpo": [[-3 * 1.1 / 2 / 4, 0.0], [0.0, 0.0]],
    "dr_grpo": [[-3 * 1.1 / 16, 0.0], [0.0, 0.0]],
    "dapo": [[-3 * 1.1 / 7, 0.0], [0.0, 0.0]],
    "gspo": [[0.0, 0.0], [0.0, 0.0]],
    "cispo": [[-3 * 1.1 / 7, -3 * 1.28 / 7], [3 * 0.7 / 7, 0.0]],  # none is lost
    "rloo": [[0.0, 0.0], [0.0, 0.0]],
}

# With advantages -1 and 3 all ratios went the other way, and nothing is clipped (but cispo's 1.5).
TURNED = {
    "grpo": [[3 * 1.1 / 2 / 4, 3 * 1.5 / 2 / 4], [-3 * 0.7 / 4, 0.0]],
    "dr_grpo": [[3 * 1.1 / 16, 3 * 1.5 / 16], [-3 * 0.7 / 16, 0.0]],
    "dapo": [[3 * 1.1 / 7, 3 * 1.5 / 7], [-3 * 0.7 / 7, 0.0]],
    "gspo": [[3 * math.sqrt(1.65) / 2 / 4] * 2, [-3 * 0.7 / 4, 0.0]],
    "cispo": [[3 * 1.1 / 7, 3 * 1.28 / 7], [-3 * 0.7 / 7, 0.0]],
    "rloo": [[3 * 1.65 / 4] * 2, [-3 * 0.7 / 4, 0.0]],
}


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize(("sign", "gradients"), [(1, GRADIENTS), (-1, TURNED)])
def test_clipping_stops_only_what_went_too_far_in_its_own_direction(
    name: str, sign: int, gradients: dict[str, list[list[float]]]
) -> None:
    logprobs = LOGPROBS.clone().requires_grad_()
    of(name, replace(BATCH, logprobs=logprobs, advantages=sign * BATCH.advantages)).loss.backward()
    torch.testing.assert_close(logprobs.grad, torch.tensor(gradients[name]))


def test_low_ratios_have_no_limit_in_cispo_unless_one_is_set() -> None:
    tiny = replace(BATCH, old_logprobs=LOGPROBS - torch.tensor(0.001).log())
    # 0.001 · (3 · (-1 - 2) + -3 · -0.5) / -7, and the same with the weight 0.8
    assert of("cispo", tiny).loss.item() == pytest.approx(0.001 * 7.5 / 7)
    assert of("cispo", tiny, epsilon=0.2).loss.item() == pytest.approx(0.8 * 7.5 / 7)


# On policy every objective is REINFORCE, with count · A over its own divisor.
ON_POLICY = {
    "grpo": [[-3 / 8, -3 / 8], [3 / 4, 0.0]],
    "dr_grpo": [[-3 / 16, -3 / 16], [3 / 16, 0.0]],
    "dapo": [[-3 / 7, -3 / 7], [3 / 7, 0.0]],
    "gspo": [[-3 / 8, -3 / 8], [3 / 4, 0.0]],
    "cispo": [[-3 / 7, -3 / 7], [3 / 7, 0.0]],
    "rloo": [[-3 / 4, -3 / 4], [3 / 4, 0.0]],
}


@pytest.mark.parametrize("name", ON_POLICY)
def test_on_policy_the_gradient_is_the_policy_gradient(name: str) -> None:
    logprobs = LOGPROBS.clone().requires_grad_()
    result = of(name, replace(BATCH, logprobs=logprobs, old_logprobs=logprobs.detach()))
    result.loss.backward()
    torch.testing.assert_close(logprobs.grad, torch.tensor(ON_POLICY[name]))
    assert result.clip_fraction.item() == 0


KL = [[math.exp(0.1) - 0.1 - 1, math.exp(-0.2) + 0.2 - 1], [0.0, 0.0]]
KL_DIVISORS = {"grpo": 2 * 4, "dr_grpo": 16, "dapo": 7, "gspo": 2 * 4, "cispo": 7, "rloo": 4}


@pytest.mark.parametrize("name", KL_DIVISORS)
def test_kl_to_the_reference_is_aggregated_as_the_gain_is(name: str) -> None:
    reference = LOGPROBS + torch.tensor([[0.1, -0.2], [0.0, math.nan]])
    torch.testing.assert_close(k3(LOGPROBS, reference, BATCH.mask), torch.tensor(KL))
    with_kl = of(name, replace(BATCH, ref_logprobs=reference), beta=0.5, use_bias_correction_kl=False)
    assert with_kl.kl.item() == pytest.approx(3 * sum(KL[0]) / 7, rel=1e-5)
    expected = of(name).loss.item() + 0.5 * 3 * sum(KL[0]) / KL_DIVISORS[name]
    assert with_kl.loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_kl_is_weighed_by_the_ratio_so_that_its_gradient_is_that_of_the_divergence() -> None:
    reference = LOGPROBS + torch.tensor([[0.1, -0.2], [0.0, math.nan]])
    with_kl = of("dapo", replace(BATCH, ref_logprobs=reference), beta=0.5)
    weighed = 3 * (1.1 * KL[0][0] + 1.5 * KL[0][1])
    assert with_kl.loss.item() == pytest.approx(of("dapo").loss.item() + 0.5 * weighed / 7, rel=1e-5)
    assert with_kl.kl.item() == pytest.approx(3 * sum(KL[0]) / 7, rel=1e-5)  # what is reported is the divergence

    assert_unbiased(lagged=False)


def test_what_an_earlier_policy_sampled_gives_the_policys_own_gradient() -> None:
    """On average over its draws, of rewards and KL."""
    assert_unbiased(lagged=True)
    with pytest.raises(AssertionError):
        assert_unbiased(lagged=True, said=False)


def assert_unbiased(lagged: bool, said: bool = True) -> None:
    """One token, three choices: the expected gradient over draws of the policy (lagged: of an earlier one), against
    that of the sum over choices. said: whether the objective is told of the lag."""
    logits = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    frozen = torch.tensor([0.1, 0.4, -0.3], dtype=torch.float64).log_softmax(0)
    policy = logits.log_softmax(0)
    sampler = torch.tensor([-0.1, 0.3, 0.2], dtype=torch.float64).log_softmax(0) if lagged else policy.detach()
    advantages = torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64)
    value = policy.exp() * (policy - frozen - advantages)
    (exact,) = torch.autograd.grad(value.sum(), logits, retain_graph=True)
    expected = torch.zeros_like(logits)
    for choice, share in enumerate(sampler.exp()):
        one = MicroBatch(
            logprobs=policy[choice].reshape(1, 1),
            old_logprobs=policy[choice].detach().reshape(1, 1),
            sampler_logprobs=sampler[choice].reshape(1, 1),
            ref_logprobs=frozen[choice].reshape(1, 1),
            advantages=advantages[choice].reshape(1),
            mask=torch.ones(1, 1, dtype=torch.bool),
            weights=torch.ones(1, dtype=torch.int64),
        )
        training = TrainingSettings(beta=1.0)
        loss = objective(one, Sizes(1, 1, 1), training, lagged and said).loss
        expected += share * torch.autograd.grad(loss, logits, retain_graph=True)[0]
    torch.testing.assert_close(expected, exact)


# Trainer over sampler probability: 2 and 6 in the first completion, which is 12 for all of it, and 0.5 in the second.
GAPS = torch.tensor([[2.0, 6.0], [0.5, math.nan]]).log()
CORRECTIONS = {
    "off": [[1.0, 1.0], [1.0, 1.0]],
    "token_truncate": [[2.0, 3.0], [0.5, 1.0]],
    "token_mask": [[2.0, 0.0], [0.5, 1.0]],
    "sequence_truncate": [[3.0], [0.5]],
    "sequence_mask": [[0.0], [0.5]],
}


@pytest.mark.parametrize("mode", CORRECTIONS)
def test_sampler_correction(mode: str) -> None:
    logprobs = LOGPROBS.clone().requires_grad_()
    batch = replace(BATCH, logprobs=logprobs, old_logprobs=logprobs, sampler_logprobs=logprobs.detach() - GAPS)
    weight = sampler_correction(batch, mode, 3.0)
    torch.testing.assert_close(weight, torch.tensor(CORRECTIONS[mode]))
    assert not weight.requires_grad


def test_the_sampler_correction_weighs_the_gain_and_not_the_kl() -> None:
    batch = replace(BATCH, sampler_logprobs=OLD - GAPS, ref_logprobs=LOGPROBS + 0.1)
    plain = {"beta": 0.5, "use_bias_correction_kl": False}
    result = of("dapo", batch, **plain, vllm_importance_sampling_mode="token_truncate")
    surrogate = 3 * (2 * 1.1 + 3 * 1.28) + 0.5 * -2.4
    assert result.loss.item() == pytest.approx(-(surrogate - 0.5 * 7 * KL[0][0]) / 7)
    assert result.logprob_gap.item() == pytest.approx((3 * (math.log(2) + math.log(6)) + math.log(2)) / 7)

    # The whole ratio of a completion is weighed by the mean over its tokens.
    result = of("rloo", batch, vllm_importance_sampling_mode="token_truncate")
    assert result.loss.item() == pytest.approx(-(3 * 1.28 * 2.5 - 0.5 * 2.4) / 4)
    result = of("rloo", batch, vllm_importance_sampling_mode="sequence_truncate", vllm_importance_sampling_clip_max=9)
    assert result.loss.item() == pytest.approx(-(3 * 1.28 * 9 - 0.5 * 2.4) / 4)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_micro_batches_add_up(name: str) -> None:
    batch = replace(BATCH, sampler_logprobs=OLD - GAPS, ref_logprobs=LOGPROBS - 0.1)
    settings: dict[str, Any] = {"beta": 0.5, "vllm_importance_sampling_mode": "token_truncate"}
    parts = [
        of(
            name,
            MicroBatch(**{field.name: getattr(batch, field.name)[row] for field in fields(MicroBatch)}),
            **settings,
        )
        for row in (slice(0, 1), slice(1, 2), slice(2, 2))
    ]
    whole = of(name, batch, **settings)
    for field in fields(Objective):
        total = torch.stack([getattr(part, field.name) for part in parts]).sum()
        torch.testing.assert_close(total, getattr(whole, field.name))
        assert total != 0
