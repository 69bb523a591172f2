"""The token tree through an adapter gives the gradients of a plain peft model on padded rows, and what is
published and saved is the merged model."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from configs.schema import TrainingSettings
from tests.equivalence.dense import CONFIGS, dense_loss, make_lesson, relative_gap, tiny_model, tree_loss
from trainer.update import lora
from trainer.update.forest import pack
from trainer.update.model import ModelError
from trainer.update.policy import Policy, policy_inputs

LESSONS = [
    make_lesson([5, 6, 7, 8, 1], [([11, 2], 90, 1.0), ([12, 2], 30, -0.5), ([12, 13, 14, 15], 8, -1.0)]),
    make_lesson([5, 6, 7, 8, 3], [([12, 2], 100, 1.0), ([11, 2], 28, -0.5)], temperature=1.4),
]
TARGETS: dict[str, tuple[str, ...]] = {"all": ("all-linear",), "some": ("q_proj", "0.mlp.down_proj")}


def away(model: Any) -> dict[str, Tensor]:
    """Moves the adapter off its start, where B is 0 and A has no gradient; its factors."""
    generator = torch.Generator().manual_seed(0)
    factors = {name: parameter for name, parameter in model.named_parameters() if lora.is_factor(name)}
    with torch.no_grad():
        for factor in factors.values():
            factor.add_(torch.randn(factor.shape, generator=generator), alpha=0.2)
    return factors


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_gradients_of_the_adapter(name: str, targets: str, gradient_checkpointing: bool) -> None:
    """In float64, where rounding hides nothing."""
    ours, theirs, old, reference = (tiny_model(name, dtype=torch.float64) for _ in range(4))
    before = {key: weight.clone() for key, weight in ours.named_parameters()}
    training = TrainingSettings(lora_rank=3, lora_alpha=5, lora_target_modules=TARGETS[targets])
    lora.adapted(ours, training)
    factors = away(ours)
    plain: Any = "all-linear" if targets == "all" else ["q_proj", "0.mlp.down_proj"]
    get_peft_model(theirs, LoraConfig(task_type="CAUSAL_LM", r=3, lora_alpha=5, target_modules=plain))
    theirs.load_state_dict(ours.state_dict())

    policy, batch = Policy(ours, gradient_checkpointing).train(), pack(LESSONS, 2, 12)
    loss, gradients = tree_loss(policy, batch, old=Policy(old), reference=Policy(reference), beta=0.3)
    dense, dense_gradients = dense_loss(theirs, LESSONS, old=old, reference=reference, beta=0.3)
    assert loss == pytest.approx(dense, rel=1e-6)
    assert max(relative_gap([a], [b]) for a, b in zip(gradients, dense_gradients, strict=True)) <= 1e-6
    assert len(gradients) == len(factors) == 2 * len(lora.targeted(inner(before), TARGETS[targets])) > 0
    assert all((gradient != 0).any() for gradient in gradients)
    for weight in lora.weights(ours):
        assert torch.equal(weight.base, before[weight.name])
        assert weight.base.grad is None


def inner(weights: dict[str, Tensor]) -> list[str]:
    return [name.removesuffix(".weight") for name in weights if "proj.weight" in name]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_published_weights_are_the_merged_ones(name: str) -> None:
    model, names = tiny_model(name), [name for name, _ in tiny_model(name).named_parameters()]
    peft_model = lora.adapted(model, TrainingSettings(lora_rank=3))
    away(model)
    published = {weight.name: weight.whole() for weight in lora.weights(model)}
    again = {weight.name: weight.whole() for weight in lora.weights(model)}
    assert list(published) == names
    merged = dict(peft_model.merge_and_unload().named_parameters())
    assert merged.keys() == published.keys()
    assert all(torch.equal(weight, published[name]) for name, weight in merged.items())
    assert all(torch.equal(weight, published[name]) for name, weight in again.items())


def test_bfloat16_is_rounded_once() -> None:
    model = tiny_model("llama", dtype=torch.bfloat16)
    lora.adapted(model, TrainingSettings(lora_rank=3, lora_alpha=3))
    away(model)
    weight = next(weight for weight in lora.weights(model) if weight.layer is not None)
    base, a, b = (part.detach().double() for part in weight.parts)
    assert all(part.dtype == torch.bfloat16 for part in weight.parts)
    error = (weight.whole().double() - (base + b @ a)).abs()
    assert (error <= (base + b @ a).abs() * 2**-8 + 1e-6).all()
    assert weight.whole().dtype == torch.bfloat16


def test_without_its_adapter_the_model_is_the_untrained_one() -> None:
    model, untrained = tiny_model("qwen2"), tiny_model("qwen2")
    peft_model = lora.adapted(model, TrainingSettings(lora_rank=3))
    away(model)
    inputs = policy_inputs(pack(LESSONS, 1, 10_000).forests[0][0], "cpu")
    policy, expected = Policy(model), Policy(untrained)(**inputs)
    logprobs = policy(**inputs)
    with torch.no_grad(), peft_model.disable_adapter():
        assert torch.equal(policy(**inputs), expected)
    assert not torch.allclose(logprobs, expected, atol=0.1)
    logprobs.sum().backward()
    assert all(factor.grad is not None for name, factor in model.named_parameters() if lora.is_factor(name))


def test_layers_that_are_not_linear_are_refused() -> None:
    with pytest.raises(ModelError, match=r"includes model\.embed_tokens, which is no linear layer"):
        lora.adapted(tiny_model("qwen2"), TrainingSettings(lora_rank=3, lora_target_modules=("embed_tokens",)))
    with pytest.raises(ModelError, match="cannot be adapted"):
        lora.adapted(tiny_model("qwen2"), TrainingSettings(lora_rank=3, lora_target_modules=("c_attn",)))


def test_the_size_of_an_adapter() -> None:
    model = tiny_model("qwen3")
    shapes = {name.removesuffix(".weight"): tuple(weight.shape) for name, weight in model.named_parameters()}
    layers = {name: shape for name, shape in shapes.items() if "proj" in name}
    training = TrainingSettings(lora_rank=3, lora_target_modules=TARGETS["some"])
    lora.adapted(model, training)
    factors = [weight for name, weight in model.named_parameters() if lora.is_factor(name)]
    assert lora.adapter_size(layers, training) == sum(factor.numel() for factor in factors)
    assert lora.adapter_size(layers, TrainingSettings()) == 0
