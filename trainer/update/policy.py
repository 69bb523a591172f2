"""The policy: a Hugging Face causal language model that reads a forest in one forward pass."""

import copy
import inspect
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast

from trainer.update import attention
from trainer.update.buffer_sizes import LOGITS_AT_ONCE, LOGITS_SHARE
from trainer.update.forest import Forest

POLICY_INPUTS = (
    "token_ids",
    "position_ids",
    "subtree_end",
    "parents",
    "parent_temperature",
    "edge_parent",
    "edge_token",
)


class Policy(torch.nn.Module):
    """Log-probabilities of a forest's edges under `model`; autograd does the rest.

    The distribution is softmax(logits / temperature) over the whole vocabulary. Truncation while sampling
    (top-p, top-k, min-p) is not part of it, as in TRL.

    gradient_checkpointing: keep no activations inside the model's layers and compute them again in the backward
    pass: a third more time, and memory for one layer instead of all.
    """

    def __init__(self, model: PreTrainedModel, gradient_checkpointing: bool = False) -> None:
        super().__init__()
        check_reads_trees(model)
        model.set_attn_implementation(attention.IMPLEMENTATION)
        if gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self.model = model

        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Never trains with dropout: the policy that is trained is the one that was sampled."""
        super().train(False)
        for layer in self.model.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                layer.training = True  # a layer that is set to keep no activations does so in training only
        return self

    def forward(
        self,
        token_ids: Tensor,
        position_ids: Tensor,
        subtree_end: Tensor,
        parents: Tensor,
        parent_temperature: Tensor,
        edge_parent: Tensor,
        edge_token: Tensor,
    ) -> Tensor:
        """[E] float32 (float64 for a float64 model), natural log. The arguments are `Forest`'s fields."""
        hidden = self.model.base_model(
            input_ids=token_ids[None],
            position_ids=position_ids[None],
            attention_mask=_NO_MASK,
            use_cache=False,
            attend=attention.attend_to(subtree_end, position_ids),
        ).last_hidden_state[0, parents]

        # Logits of some parents at a time, computed again for the backward pass where they are not all there is.
        at_once = max(1, logits_at_once(hidden.device) // self.model.config.get_text_config().vocab_size)
        if len(parents) <= at_once:
            return self._logprobs(hidden, parent_temperature, edge_parent, edge_token)
        order = torch.argsort(edge_parent, stable=True)
        edges = torch.bincount(edge_parent // at_once).tolist()
        logprobs = [
            checkpoint(
                self._logprobs, *arguments, edge_parent[chosen] % at_once, edge_token[chosen], use_reentrant=False
            )
            for *arguments, chosen in zip(
                hidden.split(at_once), parent_temperature.split(at_once), order.split(edges), strict=True
            )
        ]
        return torch.cat(logprobs)[torch.argsort(order)]

    def _logprobs(self, hidden: Tensor, temperature: Tensor, edge_parent: Tensor, edge_token: Tensor) -> Tensor:
        """[edges] log-probability of `edge_token` after each edge's parent, a row of `hidden`."""
        logits = head_of(self.model)(inputs_embeds=hidden[None], use_cache=False).logits[0]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if (temperature != 1).any():
            logits = logits / temperature[:, None]
        logprobs: Tensor = logits.log_softmax(-1)[edge_parent, edge_token]
        return logprobs


def logits_at_once(device: torch.device) -> int:
    """Elements of the logits that may exist at a time on a device. Each part has a gradient of the whole head."""
    if device.type != "cuda":
        return LOGITS_AT_ONCE
    return int(torch.cuda.get_device_properties(device).total_memory) // (LOGITS_SHARE * torch.float32.itemsize)


class _LastHiddenState(BaseModelOutputWithPast):
    """What a head needs of the layers. Of the rest, such as the router's logits of a mixture of experts, there is
    none."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class _Identity(torch.nn.Module):
    """In the place of a model's layers: what goes in is what comes out."""

    def forward(self, *_: Any, inputs_embeds: Any, **__: Any) -> BaseModelOutputWithPast:
        return _LastHiddenState(last_hidden_state=inputs_embeds)


def head_of(model: PreTrainedModel) -> PreTrainedModel:
    """The model without its layers, from last hidden states (`inputs_embeds`) to logits, with whatever that model
    does to logits. Weights, modules and hooks are those that the model has now."""
    head = copy.copy(model)
    head.__dict__["_modules"] = model._modules | {model.base_model_prefix: _Identity()}
    return head


_NO_MASK = torch.empty(1, 1, 0, 0)
"""A 4-D mask goes to the layers as it is: transformers makes none, and a layer that did not know of the tree
would fail."""


def check_reads_trees(model: PreTrainedModel) -> None:
    """Refuse a model that would not compute a token tree exactly."""
    name = type(model).__name__
    arguments = inspect.signature(model.forward).parameters
    layers = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    reason = None
    if missing := {"inputs_embeds", "position_ids"} - arguments.keys():
        reason = f"its forward does not take {', '.join(sorted(missing))}"
    elif model._is_stateful or not layers <= {"full_attention", "sliding_attention"}:
        reason = "it has layers other than full or sliding-window attention, which cannot skip tree branches"
    elif not model._supports_attention_backend:
        reason = "its attention is its own and takes no other in its place"
    if reason is None:
        embeddings: Any = model.get_input_embeddings()
        try:
            with torch.no_grad():
                head_of(model)(inputs_embeds=embeddings.weight[None, :1], use_cache=False)
        except Exception as error:  # noqa: BLE001 - whatever its own code raises
            reason = f"its head cannot be computed without its layers ({type(error).__name__}: {error})"
    if reason:
        raise ValueError(f"{name} cannot be trained on token trees: {reason}.")


def policy_inputs(forest: Forest, device: torch.device | str) -> dict[str, Tensor]:
    """The arguments of `Policy.forward`."""
    return {name: torch.tensor(getattr(forest, name), device=device) for name in POLICY_INPUTS}


def completion_logprobs(edge_logprobs: Tensor, completion_edges: Tensor, mask: Tensor) -> Tensor:
    """[C, L] log-probability of each token of each completion, 0 at padding: a gather along tree paths."""
    return torch.where(mask, edge_logprobs[completion_edges], 0.0)
