"""A mixture of experts: engines load its weights anew, and say what transformers says with them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM, set_seed

from generation.buckets import pack
from generation.checksum import checksum
from generation.engine import Engine
from tests.generation.own_process import undone
from tests.generation.tiny_engine import gap, tiny_spec
from tests.tiny import SIZES, tiny_tokenizer
from trainer.update.file_format import in_files, together


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    set_seed(0)
    tokenizer = tiny_tokenizer()
    config = MixtralConfig(**SIZES, num_local_experts=4, bos_token_id=None, eos_token_id=tokenizer.eos_token_id)
    MixtralForCausalLM(config).float().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with undone():
        yield tmp_path


@torch.no_grad()
def test_experts_are_loaded_anew(folder: Path) -> None:
    model: Any = MixtralForCausalLM.from_pretrained(folder, dtype=torch.float32)
    engine = Engine(tiny_spec(str(folder)))
    for version in (0, 1, 2):
        if version:
            weights = changed(model, version)
            engine.start_weight_update()
            for data, layout in pack(weights, 50_000):
                engine.update_weights({"data": data, "layout": layout})
            engine.finish_weight_update(str(version))
            engine.confirm(version, checksum(weights))
        assert gap(model, engine) < 1e-4


def changed(model: Any, seed: int) -> list[tuple[str, torch.Tensor]]:
    """Moves all of the model's weights; what its files would have now."""
    generator = torch.Generator().manual_seed(seed)
    named = dict(model.named_parameters())
    for weight in named.values():
        weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.02)
    groups = together(model, list(named))
    return [one for group in groups for one in in_files(model, {name: named[name] for name in group})]
