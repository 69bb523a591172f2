"""Other architectures than those of test_tree_equals_dense: the same gradients, or a refusal."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.models.auto import AutoModelForCausalLM

from configs.schema import TrainingSettings
from tests.equivalence.dense import CONFIGS, SIZES, dense_loss, relative_gap, tiny_model, tree_loss
from tests.equivalence.test_lora import LESSONS
from trainer.update import lora
from trainer.update.forest import pack
from trainer.update.model import ModelError, linear_layers, refuse_untrainable, weight_shapes
from trainer.update.policy import Policy

EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}
TRAINED: dict[str, dict[str, Any]] = {
    "GPT2": {},
    "GPTNeoX": {},
    "Gemma3Text": {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 4},
    "Phi3": {},
    "Olmo2": {},
    "Granite": {},
    "Cohere2": {"sliding_window": 4},
    "SmolLM3": {},
    "Qwen3Moe": {"num_experts": 4, **EXPERTS},
    "Mixtral": {"num_local_experts": 4},
}
REFUSED: dict[str, str] = {
    "StableLm": "its attention is its own and takes no other in its place",
    "Falcon": "its attention is its own and takes no other in its place",
    "Qwen3Next": "it has layers other than full or sliding-window attention",
    "OPT": "its head cannot be computed without its layers",
    "Mamba": "does not support an attention implementation through torch",
}


def configuration(family: str, **sizes: Any) -> Any:
    config = getattr(transformers, f"{family}Config")(**SIZES | sizes)
    config.bos_token_id = config.eos_token_id = None  # by default some of a larger vocabulary
    return config


@pytest.mark.parametrize("family", TRAINED)
def test_gradients(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configuration(family, **TRAINED[family])
    refuse_untrainable(Path("model"), config, TrainingSettings())
    monkeypatch.setitem(CONFIGS, family, config)
    model, old = tiny_model(family), tiny_model(family)
    loss, gradients = tree_loss(Policy(model), pack(LESSONS, 2, 12), old=Policy(old), reference=None, beta=0.0)
    expected, dense_gradients = dense_loss(model, LESSONS, old=old, reference=None, beta=0.0)
    assert loss == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert relative_gap(gradients, dense_gradients) <= 1e-5
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("family", REFUSED)
def test_refusals(family: str) -> None:
    with pytest.raises(ModelError, match=rf"^model\.path = 'folder' cannot be trained: {family}.*{REFUSED[family]}"):
        refuse_untrainable(Path("folder"), configuration(family), TrainingSettings())


@pytest.mark.parametrize("family", ["Qwen3Moe", "Mixtral"])
def test_adapters_are_beside_layers_and_not_beside_experts(family: str, tmp_path: Path) -> None:
    config = configuration(family, **TRAINED[family])
    model: Any = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path)
    layers = linear_layers(tmp_path, weight_shapes(tmp_path) or {})
    training = TrainingSettings(lora_rank=3)
    lora.adapted(model, training)
    assert {weight.name.removesuffix(".weight") for weight in lora.weights(model) if weight.layer} == layers.keys()
    factors = [weight for name, weight in model.named_parameters() if weight.requires_grad]
    assert sum(factor.numel() for factor in factors) == lora.adapter_size(layers, training)
    refuse_untrainable(tmp_path, config, training)
    with pytest.raises(ModelError, match=r"^training\.lora_target_modules"):
        refuse_untrainable(tmp_path, config, TrainingSettings(lora_rank=3, lora_target_modules=("gate",)))
