"""What null of the settings that depend on memory stands for."""

from typing import Any

import pytest

from configs.derived import derived
from configs.schema import Config
from launch import hardware, prepare
from launch.fitted import fitted
from launch.memory_plan import Hardware, Load, memory_plan
from tests.launch.test_memory_plan import EIGHT, GIB
from trainer.update.model_shape import ModelShape

SMALL = ModelShape(134_515_008, layers=30, hidden_size=576, intermediate_size=1536, heads=9, key_value_heads=3,
                   head_dim=64, vocab_size=49_152)  # fmt: skip


def found(shape: ModelShape, gpus: int, memory: float, /, **training: Any) -> tuple[int, bool]:
    """Tokens of a micro-batch, and whether activations are computed again. memory: of a GPU, or of the machine."""
    asked = Config.model_validate({"task": {"name": "comparison"}, "run": {"max_steps": 1}, "training": training})
    hardware = Hardware("bfloat16", gpus, memory) if gpus else Hardware("float32", 0, None, memory)

    def plan(config: Config) -> Any:
        load = Load(2048, config.training.micro_batch_tokens, bytes_per_node=None)
        return memory_plan(config, shape, hardware, load)

    config = fitted(asked.training, derived(asked, gpus), plan)
    return config.training.micro_batch_tokens, config.training.gradient_checkpointing


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (1000 * GIB, (4096, False)),
        (14 * GIB, (4096, False)),
        (11 * GIB, (2048, False)),
        (9 * GIB, (1024, False)),
        (7 * GIB, (4096, True)),
        (1 * GIB, (1024, True)),  # not enough for any
    ],
)
def test_on_cpus_they_shrink_with_the_memory_of_the_machine(memory: float, expected: tuple[int, bool]) -> None:
    assert found(SMALL, 0, memory) == expected


def test_what_is_set_stays() -> None:
    assert found(SMALL, 0, 1 * GIB, micro_batch_tokens=9999) == (9999, True)
    assert found(SMALL, 0, 14 * GIB, gradient_checkpointing=True) == (4096, True)
    assert found(SMALL, 0, 7 * GIB, gradient_checkpointing=False) == (1024, False)
    assert found(SMALL, 0, 1 * GIB, micro_batch_tokens=7, gradient_checkpointing=False) == (7, False)


def test_a_rank_on_a_gpu_has_what_is_left_of_it() -> None:
    assert found(SMALL, 1, 80 * GIB) == (8192, False)
    assert found(EIGHT, 8, 80e9, zero_stage=2, ranks=4) == (2048, False)
    assert found(EIGHT, 8, 60e9, zero_stage=2, ranks=4) == (4096, True)


def test_a_run_is_prepared_with_what_fits(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Config.model_validate({"model": {"path": model}, "task": {"name": "comparison"}, "run": {"max_steps": 1}})
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(hardware, "gpus", lambda: 0)
    for memory, expected in ((1000 * GIB, (4096, False)), (1 * GIB, (1024, True))):
        monkeypatch.setattr(prepare, "machine_bytes", lambda memory=memory: memory)
        training = prepare.prepare(asked).config.training
        assert (training.micro_batch_tokens, training.gradient_checkpointing) == expected
