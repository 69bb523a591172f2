"""Weights leave as the model's own files have them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPTNeoXConfig, LlamaConfig, MixtralConfig, Qwen3MoeConfig
from transformers.models.auto import AutoModelForCausalLM

from tests.equivalence.dense import SIZES
from trainer.update.file_format import in_files, together
from trainer.update.rank import Rank

CONFIGS: dict[str, Any] = {
    "as they are": LlamaConfig(**SIZES),
    "another name": GPTNeoXConfig(**SIZES, bos_token_id=None, eos_token_id=None),
    "experts apart": Qwen3MoeConfig(**SIZES, moe_intermediate_size=16, num_experts=4),
    "experts apart, another name": MixtralConfig(**SIZES, num_local_experts=4),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_names_shapes_and_values_are_those_of_the_files(name: str, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_config(CONFIGS[name]).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    weights = dict(model.named_parameters())
    groups = together(model, list(weights))
    assert sorted(name for group in groups for name in group) == sorted(weights)
    found = [one for group in groups for one in in_files(model, {name: weights[name] for name in group})]
    meta = {name: weight.detach().to("meta") for name, weight in weights.items()}
    planned = [one for group in groups for one in in_files(model, {name: meta[name] for name in group})]
    expected = load_file(tmp_path / "model.safetensors")
    assert {name for name, _ in found} == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in found)
    assert [(name, tuple(weight.shape)) for name, weight in planned] == [
        (name, tuple(weight.shape)) for name, weight in found
    ]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_rank_publishes_what_files_have_and_says_so_before(name: str, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_config(CONFIGS[name]).save_pretrained(tmp_path)
    rank: Any = object.__new__(Rank)  # without its group of processes
    rank._engine = SimpleNamespace(module=SimpleNamespace(model=AutoModelForCausalLM.from_pretrained(tmp_path)))
    published, expected = list(rank.published()), load_file(tmp_path / "model.safetensors")
    assert {name for name, _ in published} == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in published)
    assert rank.metadata() == [(name, weight.dtype, tuple(weight.shape)) for name, weight in published]
