"""Nothing of an update stays on the CPU: forward, objective and backward on a device that the CPU is not.

torch's fake tensors know device and type without data, and refuse to mix devices. They are on the device "meta" in
the place of "cuda", which torch builds without CUDA refuse even so, and attention is torch's own after the mask was
made as for a GPU: what FlexAttention computes is in test_attention.py.
"""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModelForCausalLM

from tests.equivalence.dense import CONFIGS, OBJECTIVES
from tests.trainer.update.test_policy import FOREST
from trainer.update import attention, policy
from trainer.update.objective import MicroBatch, Sizes, objective
from trainer.update.policy import Policy, completion_logprobs, policy_inputs

DEVICE = torch.device("meta")

MODELS = [name for name in CONFIGS if not name.startswith("gemma")]  # which make a tensor that is not a fake one


def flex(query: Tensor, key: Tensor, value: Tensor, block_mask: BlockMask, scale: float, enable_gqa: bool) -> Tensor:
    lists = (block_mask.kv_indices, block_mask.full_kv_indices, block_mask.q_indices, block_mask.full_q_indices)
    assert all(each is not None and each.device == DEVICE for each in lists)
    node = torch.zeros(1, dtype=torch.int32, device=DEVICE)
    assert block_mask.mask_mod(node, node, node, node).device == DEVICE
    attended: Tensor = scaled_dot_product_attention(query, key, value, scale=scale, enable_gqa=enable_gqa)
    return attended


@pytest.fixture
def far_from_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "attend_to", lambda end, depth: attention.Flex(end, depth, flex))
    monkeypatch.setattr(policy, "logits_at_once", lambda device: 2**40)
    monkeypatch.setattr(FakeTensor, "__bool__", lambda tensor: True, raising=False)  # some temperature is not 1


@pytest.mark.usefixtures("far_from_the_cpu")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", MODELS)
def test_forward_and_backward_are_where_the_model_is(name: str, dtype: torch.dtype) -> None:
    with FakeTensorMode():
        with DEVICE:
            model = AutoModelForCausalLM.from_config(CONFIGS[name], dtype=dtype)
        logprobs = Policy(model)(**policy_inputs(FOREST, DEVICE))
        assert (logprobs.device, logprobs.dtype) == (DEVICE, torch.float32)
        logprobs.sum().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert {(grad.device, grad.dtype) for grad in gradients if grad is not None} == {(DEVICE, dtype)}


@pytest.mark.parametrize("name", list(OBJECTIVES))
@pytest.mark.parametrize("settings", [{}, {"beta": 0.1}, {"beta": 0.1, "use_bias_correction_kl": True}])
def test_objectives_are_where_log_probabilities_are(name: str, settings: dict[str, Any]) -> None:
    training = OBJECTIVES[name].model_copy(update=settings)
    with FakeTensorMode():
        edges, mask, sampled, weights, advantages = (
            torch.tensor(array, device=DEVICE)
            for array in (
                FOREST.completion_edges, FOREST.mask, FOREST.sampler_logprobs, FOREST.weights, FOREST.advantages,
            )
        )  # fmt: skip
        of_edges = torch.zeros(len(FOREST.edge_token), device=DEVICE, requires_grad=True)
        logprobs = completion_logprobs(of_edges, edges, mask)
        reference = logprobs.detach() if training.beta else None
        batch = MicroBatch(logprobs, logprobs.detach(), sampled, reference, advantages, mask, weights)
        loss = objective(batch, Sizes(41, 100, 7), training, lagged=False).loss
        loss.backward()
    assert loss.device == of_edges.device == DEVICE
