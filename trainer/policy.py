"""The policy: a Hugging Face causal language model that reads a forest in one forward pass."""

import inspect

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trainer.forest import Forest

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
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        check_reads_trees(model)
        self.model = model

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
        logits = self.model(
            input_ids=token_ids[None],
            position_ids=position_ids[None],
            attention_mask=self._masks(subtree_end, position_ids),
            logits_to_keep=parents,
            use_cache=False,
        ).logits[0]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        logprobs = torch.log_softmax(logits / parent_temperature[:, None], dim=-1)
        return logprobs[edge_parent, edge_token]

    def _masks(self, subtree_end: Tensor, position_ids: Tensor) -> Tensor | dict[str, Tensor]:
        """What `attention_mask` the model takes: transformers passes a 4-D mask on to every layer as it is
        (and then looks for no packed sequences in `position_ids`), so sliding windows have to be in it."""
        full = attention_mask(subtree_end)
        config = self.model.config.get_text_config()
        window: int | None = getattr(config, "sliding_window", None)
        if not window:
            return full[None, None]
        sliding = full & (position_ids[:, None] - position_ids[None, :] < window)
        if not getattr(config, "layer_types", None):
            return sliding[None, None]
        return {"full_attention": full[None, None], "sliding_attention": sliding[None, None]}


def check_reads_trees(model: PreTrainedModel) -> None:
    """Refuse a model that would not compute a token tree exactly, or only at the cost of all logits."""
    name = type(model).__name__
    arguments = inspect.signature(model.forward).parameters
    layers = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    reason = None
    if missing := {"logits_to_keep", "position_ids"} - arguments.keys():
        reason = f"its forward does not take {', '.join(sorted(missing))}"
    elif model._is_stateful or not layers <= {"full_attention", "sliding_attention"}:
        reason = "it has layers other than full or sliding-window attention, which cannot skip tree branches"
    elif model.config._attn_implementation != "sdpa":
        reason = (
            f"its attention is {model.config._attn_implementation!r}, which takes no tree mask; "
            "load it with attn_implementation='sdpa'"
        )
    if reason:
        raise ValueError(f"{name} cannot be trained on token trees: {reason}.")


def attention_mask(subtree_end: Tensor) -> Tensor:
    """[T, T] bool, true where query node (row) sees key node (column): itself and its ancestors."""
    node = torch.arange(len(subtree_end), device=subtree_end.device)
    query, key = node[:, None], node[None, :]
    return (key <= query) & (query < subtree_end[None, :])


def policy_inputs(forest: Forest, device: torch.device | str) -> dict[str, Tensor]:
    """The arguments of `Policy.forward`."""
    return {name: torch.tensor(getattr(forest, name), device=device) for name in POLICY_INPUTS}


def completion_logprobs(edge_logprobs: Tensor, completion_edges: Tensor, mask: Tensor) -> Tensor:
    """[C, L] log-probability of each token of each completion, 0 at padding: a gather along tree paths."""
    return torch.where(mask, edge_logprobs[completion_edges], 0.0)
