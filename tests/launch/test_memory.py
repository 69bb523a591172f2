"""What processes hold: the formulas, against published figures and against what is really there."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from configs.derived import derived
from configs.schema import Config, TrainingSettings
from launch.memory import (
    activation_bytes,
    engine_workspace_bytes,
    layer_bytes,
    logits_bytes,
    rank_buffer_bytes,
    rank_host_bytes,
    rank_state_bytes,
    token_cache_bytes,
)
from trainer.update.model_shape import EXAMPLE_SHAPE, ModelShape, model_shape

BILLION = 1e9


def training(**settings: Any) -> TrainingSettings:
    sections = {"task": {"name": "comparison"}, "run": {"max_steps": 1}, "training": settings}
    return derived(Config.model_validate(sections), gpus=0).training


@pytest.mark.parametrize(("stage", "gigabytes"), [(0, 120), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_the_zero_papers_table(stage: int, gigabytes: float) -> None:
    """Figure 1 of arXiv 1910.02054: 7.5 billion parameters, 64 ranks, gradients of 2 bytes where ours have 4; and in
    bfloat16 stage 0 is our stage 1, so its row is that of a rank alone."""
    parameters, ranks = int(7.5 * BILLION), 64 if stage else 1
    parts = rank_state_bytes(training(ranks=ranks, zero_stage=stage), parameters, "bfloat16")
    assert sum((parts | {"gradients": parts["gradients"] / 2}).values()) / BILLION == pytest.approx(
        gigabytes, abs=0.05
    )


def test_state_by_stage_and_number_format() -> None:
    def parts(dtype: str, **settings: Any) -> tuple[float, ...]:
        return tuple(rank_state_bytes(training(**settings), 1000, dtype).values())

    assert parts("float32", zero_stage=0) == parts("float32", zero_stage=3) == (4000, 4000, 8000)  # alone
    assert parts("bfloat16", zero_stage=3, ranks=2) == (1000, 2000, 6000)
    assert parts("bfloat16", zero_stage=0, ranks=2) == (2000, 4000, 6000)  # at stage 1: `zero_stage`
    assert parts("bfloat16", zero_stage=3, ranks=2, beta=0.1) == (1000 + 2000, 2000, 6000)


def test_what_is_offloaded_is_in_the_machine_s_memory() -> None:
    """DeepSpeed's `stage_1_and_2.py` and `stage3.py` for where weights, gradients, masters and moments are."""

    def parts(dtype: str, **settings: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
        given = training(**settings)
        on_gpu, beside = rank_state_bytes(given, 1000, dtype), rank_host_bytes(given, 1000, dtype)
        return tuple(on_gpu.values()), tuple(beside.values())

    assert parts("bfloat16", zero_stage=3, ranks=2)[1] == ()
    assert parts("bfloat16", offload="optimizer") == ((2000, 4000, 0), (2000, 4000, 12_000))
    assert parts("float32", offload="optimizer") == ((4000, 4000, 0), (4000, 8000, 12_000))
    assert parts("bfloat16", offload="optimizer", ranks=2) == ((2000, 2000, 0), (1000, 2000, 6000))
    three = {"zero_stage": 3, "ranks": 2}
    assert parts("bfloat16", offload="optimizer", **three) == ((1000, 0, 0), (0, 4000, 6000))
    assert parts("bfloat16", offload="parameters", **three) == ((0, 0, 0), (1000, 4000, 6000))
    assert parts("bfloat16", offload="parameters", beta=0.1, **three)[0] == (2000, 0, 0)  # the reference


def test_an_adapter_alone_is_trained() -> None:
    """And the reference is the model without it."""
    parts = rank_state_bytes(training(zero_stage=0, beta=0.1), 1000, "float32", adapter=10)
    assert (parts["weights"], parts["gradients"], parts["optimizer"]) == (4040, 40, 80)


def test_buffers_are_deepspeeds() -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    zero = DeepSpeedZeroConfig()
    for stage, elements in (
        (1, 0),
        (2, zero.reduce_bucket_size),
        (3, zero.reduce_bucket_size + zero.max_live_parameters),
    ):
        many = rank_buffer_bytes(training(ranks=2, zero_stage=stage), int(8 * BILLION), "bfloat16")
        assert many == 2 * elements
    small = rank_buffer_bytes(training(ranks=2, zero_stage=3), 1000, "bfloat16")
    assert small == 2 * (zero.reduce_bucket_size + 1000)
    passed = {"zero_optimization": {"reduce_bucket_size": 7, "stage3_max_live_parameters": 70}}
    assert rank_buffer_bytes(training(ranks=2, zero_stage=3, deepspeed=passed), 1000, "bfloat16") == 2 * 77


LAYERS: Any = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_attention_heads": 4,
    "head_dim": 32,
    "vocab_size": 100,
}


def kept(kind: type, dtype: torch.dtype, layers: int, heads: int, checkpointing: bool) -> float:
    """Bytes that a model's layers keep of a token for the backward pass, with transformers' own attention."""
    config = kind(num_hidden_layers=layers, num_key_value_heads=heads, **LAYERS)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
    sizes: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens = torch.arange(64)[None]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    assert hidden.requires_grad
    return sum(size for pointer, size in sizes.items() if pointer not in weights) / 64


@pytest.mark.parametrize("heads", [4, 2])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("kind", [Qwen3Config, LlamaConfig])
def test_activations_are_what_layers_keep(kind: type, dtype: str, heads: int) -> None:
    torch_dtype = getattr(torch, dtype)
    measured = (kept(kind, torch_dtype, 3, heads, False) - kept(kind, torch_dtype, 1, heads, False)) / 2
    shape = model_shape(kind(num_hidden_layers=1, num_key_value_heads=heads, **LAYERS), None)
    in_rows = torch_dtype.itemsize * 128  # FlexAttention's output once more, in the order of the rows
    head_norms = (4 + torch_dtype.itemsize) * 32 * (4 + heads) + 4 * (4 + heads)
    expected = measured + in_rows + (head_norms if kind is LlamaConfig else 0)
    assert layer_bytes(shape, dtype) == pytest.approx(expected)


def test_with_checkpointing_a_layer_keeps_its_input() -> None:
    one, three = (kept(Qwen3Config, torch.bfloat16, layers, 4, True) for layers in (1, 3))
    assert (three - one) / 2 == pytest.approx(2 * 128)
    shape = model_shape(Qwen3Config(num_hidden_layers=10, num_key_value_heads=4, **LAYERS), None)
    held = activation_bytes(shape, "bfloat16", 50, checkpointing=True)
    assert held == 50 * (10 * 2 * 128 + layer_bytes(shape, "bfloat16"))
    assert activation_bytes(shape, "bfloat16", 50, checkpointing=False) == 500 * layer_bytes(shape, "bfloat16")


def test_logits_are_a_part_of_the_gpu_s_memory_or_all_there_are() -> None:
    head = 2 * 151_936 * 1024
    assert logits_bytes(EXAMPLE_SHAPE, "bfloat16", 4096, 64e9) == 3 * 1e9 + head
    assert logits_bytes(EXAMPLE_SHAPE, "bfloat16", 10, 64e9) == 3 * 10 * 4 * 151_936 + head
    assert logits_bytes(EXAMPLE_SHAPE, "bfloat16", 4096, None) == 3 * (64 << 20) + head


def test_keys_and_values_of_a_token() -> None:
    """Qwen3-8B: 36 layers, 8 heads of 128 elements, two of 2 bytes each: 144 KiB."""
    eight = ModelShape(1, layers=36, hidden_size=4096, intermediate_size=12_288, heads=32, key_value_heads=8,
                       head_dim=128, vocab_size=151_936)  # fmt: skip
    assert token_cache_bytes(eight, "bfloat16", workers=1) == 144 * 1024
    assert token_cache_bytes(eight, "bfloat16", workers=8) == 18 * 1024
    assert token_cache_bytes(eight, "bfloat16", workers=16) == 18 * 1024  # a head cannot be divided


def test_an_engine_s_workspace() -> None:
    size = engine_workspace_bytes(EXAMPLE_SHAPE, "bfloat16", workers=2, tokens=1000, sequences=10)
    assert size == 1000 * 2 * (4 * 1024 + 3 * 1536) + 3 * 4 * 10 * 151_936
