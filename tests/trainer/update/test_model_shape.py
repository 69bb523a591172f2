"""A model's numbers, from its configuration."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.tiny import load_tiny_model, make_tiny_model
from trainer.update.model import load_config
from trainer.update.model_shape import model_shape


def test_a_model_s_parameters_are_counted_without_its_files(tmp_path: Path) -> None:
    for tied in (True, False):
        folder = make_tiny_model(tmp_path / f"{tied}", tied=tied)
        shape = model_shape(load_config(folder), None)
        assert shape.parameters == sum(weight.numel() for weight in load_tiny_model(folder).parameters())
        assert (shape.layers, shape.heads, shape.key_value_heads, shape.head_dim) == (2, 2, 1, 32)


def test_what_is_not_named_follows_from_the_rest() -> None:
    names: dict[str, Any] = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 10}
    shape = model_shape(SimpleNamespace(**names), 5)
    assert (shape.parameters, shape.key_value_heads, shape.head_dim, shape.intermediate_size) == (5, 4, 16, 256)
    experts = {"num_experts_per_tok": 8, "moe_intermediate_size": 32, "intermediate_size": 1000}
    assert model_shape(SimpleNamespace(**names, **experts), 5).intermediate_size == 256
    with pytest.raises(ValueError, match="it names no hidden_size, no vocab_size"):
        model_shape(SimpleNamespace(num_hidden_layers=2, num_attention_heads=4), 5)
