"""The numbers of a model's configuration that its memory follows from."""

from dataclasses import dataclass
from typing import Any

REQUIRED = ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size")


@dataclass(frozen=True)
class ModelShape:
    """A decoder with gated MLPs.

    parameters: weights, tied ones once. layers: number. hidden_size, intermediate_size: elements of a token; of a
    mixture of experts the intermediate size is that of all experts that a token goes to. heads, key_value_heads:
    of each layer. head_dim: elements of a head. vocab_size: tokens.
    """

    parameters: int
    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    key_value_heads: int
    head_dim: int
    vocab_size: int


EXAMPLE_SHAPE = ModelShape(
    parameters=596_042_752,  # Qwen3-0.6B
    layers=28,
    hidden_size=1024,
    intermediate_size=3072,
    heads=16,
    key_value_heads=8,
    head_dim=128,
    vocab_size=151_936,
)


def model_shape(text: Any, parameters: int | None) -> ModelShape:
    """By the configuration of the model's text part (`PreTrainedConfig`, or anything with config.json's names).

    parameters: None where the files do not tell, for those of a dense model with gated MLPs.
    Raises ValueError: the configuration lacks a number.
    """
    if missing := [name for name in REQUIRED if not isinstance(getattr(text, name, None), int)]:
        raise ValueError(f"it names no {', no '.join(missing)}")
    layers, hidden, heads, vocabulary = (getattr(text, name) for name in REQUIRED)
    experts = getattr(text, "num_experts_per_tok", None)
    expert_size = getattr(text, "moe_intermediate_size", None) or getattr(text, "intermediate_size", None)
    inner = expert_size * experts if experts and expert_size else getattr(text, "intermediate_size", None)
    inner = inner or 4 * hidden  # what GPT-2 and its like mean by null
    key_value_heads = getattr(text, "num_key_value_heads", None) or heads
    head_dim = getattr(text, "head_dim", None) or hidden // heads
    if parameters is None:
        attention = 2 * hidden * head_dim * (heads + key_value_heads)
        embeddings = vocabulary * hidden * (1 if getattr(text, "tie_word_embeddings", True) else 2)
        parameters = embeddings + layers * (attention + 3 * hidden * inner + 2 * hidden) + hidden
    return ModelShape(parameters, layers, hidden, inner, heads, key_value_heads, head_dim, vocabulary)
