"""The policy: logits a part at a time, activations computed again, and models that cannot read trees."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM, PreTrainedModel

from tests.equivalence.dense import CONFIGS, VOCABULARY, make_lesson, relative_gap, tiny_model
from trainer.update import policy
from trainer.update.forest import pack
from trainer.update.policy import Policy, policy_inputs

FOREST = pack(
    [
        make_lesson([5, 6, 7], [([n, m, 2], 1 + n, float(m)) for n in range(8) for m in range(4)], temperature=0.7),
        make_lesson([5, 6], [([n, 2], 1, float(n)) for n in range(9)]),
    ],
    ranks=1,
    micro_batch_tokens=10_000,
).forests[0][0]


def logprobs_and_gradients(model: PreTrainedModel, **settings: Any) -> tuple[Tensor, list[Tensor]]:
    logprobs = Policy(model, **settings)(**policy_inputs(FOREST, "cpu"))
    weights = torch.linspace(-1, 1, len(logprobs), dtype=logprobs.dtype)
    gradients = torch.autograd.grad((logprobs * weights).sum(), list(model.parameters()))
    return logprobs.detach(), [*gradients]


class Largest(TorchFunctionMode):
    """Notes the most rows that any tensor as wide as the vocabulary has."""

    rows = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        logits = isinstance(result, Tensor) and result.ndim >= 2 and result.shape[-1] == VOCABULARY
        if logits and not isinstance(result, torch.nn.Parameter):
            self.rows = max(self.rows, result.numel() // VOCABULARY)
        return result


@pytest.mark.parametrize("name", list(CONFIGS))
def test_logits_in_parts_are_the_logits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(name, dtype=torch.float64)
    whole, whole_gradients = logprobs_and_gradients(model)
    monkeypatch.setattr(policy, "LOGITS_AT_ONCE", 4 * VOCABULARY)
    with Largest() as seen:
        parts, part_gradients = logprobs_and_gradients(model)
    assert torch.allclose(whole, parts, atol=1e-12)
    assert relative_gap(part_gradients, whole_gradients) <= 1e-12
    assert len(FOREST.parents) > 40
    assert seen.rows == 4


@pytest.mark.parametrize("name", list(CONFIGS))
def test_activations_computed_again_give_the_same_gradients(name: str) -> None:
    model = tiny_model(name, dtype=torch.float64)
    calls = []
    layers: Any = model.base_model.layers
    layers[1].self_attn.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    kept, kept_gradients = logprobs_and_gradients(model)
    assert len(calls) == 1
    again, again_gradients = logprobs_and_gradients(model, gradient_checkpointing=True)
    assert len(calls) == 3
    assert torch.equal(kept, again)
    assert relative_gap(again_gradients, kept_gradients) <= 1e-12


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_there_is_no_dropout(gradient_checkpointing: bool) -> None:
    config = LlamaConfig(
        vocab_size=97, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    config.attention_dropout = 0.5
    without = Policy(LlamaForCausalLM(config).train(), gradient_checkpointing).train()
    first, second = (without(**policy_inputs(FOREST, "cpu")) for _ in range(2))
    assert torch.equal(first, second)


def test_models_that_cannot_read_trees_are_refused_by_name() -> None:
    small: dict[str, Any] = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 1}
    with pytest.raises(ValueError, match=r"MambaForCausalLM.*position_ids"):
        Policy(MambaForCausalLM(MambaConfig(**small)))
    deaf = LlamaForCausalLM(LlamaConfig(**small, num_attention_heads=2, intermediate_size=32))
    deaf._supports_attention_backend = False
    with pytest.raises(ValueError, match=r"LlamaForCausalLM.*attention is its own"):
        Policy(deaf)
