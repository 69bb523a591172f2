"""Whether a run fits on its GPUs, told before anything starts."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray._private.thirdparty import pynvml

from configs.derived import derived
from configs.errors import ConfigError
from configs.schema import Config
from launch import hardware, prepare
from launch.memory_plan import BATCH, Hardware, Load, MemoryPlan, memory_plan, refuse_shortage, shortages
from tests.tiny import make_tiny_model
from trainer.update.model_shape import ModelShape

GIB = 1 << 30
EIGHT = ModelShape(8_190_735_360, layers=36, hidden_size=4096, intermediate_size=12_288, heads=32, key_value_heads=8,
                   head_dim=128, vocab_size=151_936)  # fmt: skip
PEERS = [
    (ModelShape(7_615_616_512, layers=28, hidden_size=3584, intermediate_size=18_944, heads=28, key_value_heads=4,
                head_dim=128, vocab_size=152_064), 2, 80e9, 2),
    (ModelShape(14_770_033_664, layers=48, hidden_size=5120, intermediate_size=13_824, heads=40, key_value_heads=8,
                head_dim=128, vocab_size=152_064), 4, 80e9, 2),
    (ModelShape(32_763_876_352, layers=64, hidden_size=5120, intermediate_size=27_648, heads=40, key_value_heads=8,
                head_dim=128, vocab_size=152_064), 8, 96e9, 4),
    (ModelShape(72_706_203_648, layers=80, hidden_size=8192, intermediate_size=29_568, heads=64, key_value_heads=8,
                head_dim=128, vocab_size=152_064), 32, 80e9, 8),
]  # fmt: skip
"""Model, GPUs, bytes of each and GPUs of an engine, with which verl's documentation ("Resource Needed for verl RL",
early 2025) says that GRPO ran: Qwen2 on 2, 4 and 32 H800 and on 8 H20, the fewest that did."""
SHARED = {"engine": {"engines": 8}, "training": {"ranks": 8}}


def planned(
    gpus: int = 8, gpu_bytes: float | None = 80e9, shape: ModelShape = EIGHT, /, **sections: Any
) -> tuple[MemoryPlan, Config]:
    config = derived(
        Config.model_validate({"task": {"name": "comparison"}, "run": {"max_steps": 1}} | sections), gpus
    )
    dtype = "float32" if gpu_bytes is None else "bfloat16"
    load = Load(4096, config.training.micro_batch_tokens, None)
    return memory_plan(config, shape, Hardware(dtype, gpus, gpu_bytes), load), config


def refused(gpus: int = 8, gpu_bytes: float = 80e9, /, **sections: Any) -> str:
    with pytest.raises(ConfigError) as error:
        refuse_shortage(*planned(gpus, gpu_bytes, **sections))
    return str(error.value)


def test_engines_and_ranks_with_gpus_of_their_own() -> None:
    plan, config = planned(training={"zero_stage": 2, "gradient_checkpointing": True})
    assert (plan.engines, plan.ranks, plan.shared) == (4, 4, False)
    assert (plan.engine_room, plan.rank_room) == (0.9 * 80e9, 80e9)
    assert sum(plan.engine.values()) == pytest.approx(plan.engine_room)
    # 2 + (4 + 12) / 4 bytes a parameter.
    assert sum(plan.rank[part] for part in ("weights", "gradients", "optimizer")) == 6 * EIGHT.parameters
    assert plan.rank["buffers"] == 2 * 5e8 + 2 * GIB  # of ZeRO 2, and two of NCCL
    assert plan.total == pytest.approx(4 * plan.engine_room + 4 * sum(plan.rank.values()))
    assert list(shortages(plan, config)) == []
    refuse_shortage(plan, config)


def test_an_engine_and_a_rank_on_one_gpu_share_it() -> None:
    plan, _ = planned(training={"ranks": 8, "zero_stage": 2}, engine={"engines": 8, "gpu_memory_utilization": 0.4})
    assert (plan.shared, plan.engine_room, plan.rank_room) == (True, 0.4 * 80e9, 0.6 * 80e9)
    assert plan.rank["buffers"] == 2 * 5e8 + 2 * 151_936 * 4096  # CUDA IPC, whose buffer holds the largest weight


def test_ranks_have_the_gpu_for_themselves_while_engines_sleep() -> None:
    """What a rank holds between updates is there beside an engine that is awake."""
    sections = {"training": {"ranks": 8, "zero_stage": 3, "micro_batch_tokens": 5120}}
    engine = {"engines": 8, "gpu_memory_utilization": 0.5}
    awake, config = planned(**sections, engine=engine)
    asleep, sleeping = planned(**sections, engine=engine | {"sleep": True})
    assert (awake.update_room, asleep.update_room) == (0.5 * 80e9, 80e9 - GIB)
    assert awake.rank_room == asleep.rank_room == 0.5 * 80e9
    (shortage,) = shortages(awake, config)
    assert "set engine.sleep: true" in shortage.advice
    assert list(shortages(asleep, sleeping)) == []


def test_an_engine_of_several_gpus_divides_its_weights() -> None:
    plan, _ = planned(engine={"engines": 1, "tensor_parallel_size": 4})
    assert (plan.engines, plan.engine["weights"]) == (4, 2 * EIGHT.parameters / 4)


def test_how_many_tokens_have_room() -> None:
    plan, _ = planned()
    held = plan.engine["weights"] + plan.engine["workspace"] + plan.engine["libraries"]
    assert plan.cached_tokens == int((0.9 * 80e9 - held) / (144 * 1024))
    vllm = {"max_num_batched_tokens": 8192, "max_num_seqs": 256}
    assert planned(engine={"vllm": vllm})[0].cached_tokens > plan.cached_tokens
    assert BATCH[False] == (8192, 256)


def test_without_gpus_processes_share_the_machine_s_memory() -> None:
    plan, config = planned(0, None, engine={"kv_cache_gib": 3})
    assert plan.engine["keys and values"] == 3 * GIB
    assert plan.engine["weights"] == plan.rank["weights"] == 4 * EIGHT.parameters
    assert list(shortages(plan, config)) == []


def test_ranks_that_cannot_hold_their_state_are_refused() -> None:
    message = refused(**SHARED)
    assert (
        "training.ranks: 8 at training.zero_stage 1 do not fit: each holds 15.3 GiB of weights, 30.5 GiB of "
        "gradients, 11.4 GiB of optimizer, 57.2 GiB in all, and has 41.0 GiB of a GPU's 74.5 beside "
        "engine.gpu_memory_utilization 0.45. Lower engine.gpu_memory_utilization, or raise training.zero_stage "
        "(now 1, at most 3), or raise training.ranks, on more GPUs, or set training.offload: optimizer, or take a "
        "smaller model or larger GPUs."
    ) in message
    alone = refused(2)
    assert "training.ranks: 1" in alone and "137.3 GiB in all, and has 74.5 GiB of a GPU's 74.5. Raise " in alone
    assert "training.zero_stage (" not in alone  # one rank has nothing to split
    plan, config = planned(**{**SHARED, "training": {"ranks": 8, "zero_stage": 3}})
    refuse_shortage(plan, config)


def test_offloading_makes_room_on_gpus_and_takes_the_machine_s_memory() -> None:
    """The eight ranks that do not fit above."""
    offloaded = {**SHARED, "training": {"ranks": 8, "offload": "optimizer"}}
    plan, config = planned(**offloaded)
    refuse_shortage(plan, config)
    assert plan.rank["optimizer"] == 0 and plan.rank["gradients"] == 4 * EIGHT.parameters / 8
    assert sum(plan.host.values()) == (2 + 4 + 12) * EIGHT.parameters / 8
    assert plan.rank["buffers"] == 2 * 5e8 + 2 * 2 * 151_936 * 4096  # ZeRO 2's, IPC's, and a gradient on its way
    small = replace(plan, hardware=replace(plan.hardware, host_bytes=128 * GIB))
    shortage = next(shortages(small, config))
    with pytest.raises(ConfigError) as error:
        refuse_shortage(small, config)
    assert str(error.value) == str(shortage)
    assert str(shortage) == (
        "training.offload: optimizer does not fit: in the machine's memory training.ranks 8 hold 15.3 GiB of "
        "weights, 30.5 GiB of gradients, 91.5 GiB of optimizer, 137.3 GiB in all, and it has 128.0. Leave it out, "
        "train adapters with training.lora_rank, or take a smaller model or a larger machine."
    )
    without, config = planned(0, None, training={"offload": "optimizer"})
    assert without.host == {} and without.rank["optimizer"] == 12 * EIGHT.parameters  # on a CPU it is one memory


def test_a_rank_that_offloads_its_optimizer_may_offload_its_weights() -> None:
    message = refused(1, 40e9, training={"offload": "optimizer"}, engine={"gpu_memory_utilization": 0.7})
    assert "raise training.zero_stage (now 1, at most 3)" in message
    assert "set training.offload: parameters and training.zero_stage: 3" in message


@pytest.mark.parametrize(("shape", "gpus", "gpu_bytes", "workers"), PEERS)
def test_what_a_peer_has_trained_has_room(shape: ModelShape, gpus: int, gpu_bytes: float, workers: int) -> None:
    """With everything moved to the machine's memory that can be, as the peer did; without, it has not."""
    engine = {
        "engines": gpus // workers,
        "tensor_parallel_size": workers,
        "gpu_memory_utilization": 0.6,
        "sleep": True,
    }
    training = {"ranks": gpus, "zero_stage": 3, "gradient_checkpointing": True, "micro_batch_tokens": 4096}
    moved = training | {"offload": "parameters"}
    assert list(shortages(*planned(gpus, gpu_bytes, shape, engine=engine, training=moved))) == []
    assert list(shortages(*planned(gpus, gpu_bytes, shape, engine=engine, training=training)))


def test_an_engine_without_room_for_a_sequence_is_refused() -> None:
    message = refused(engine={"gpu_memory_utilization": 0.2})
    assert "engine.gpu_memory_utilization: 0.2 of a GPU's 74.5 GiB is 14.9 GiB, of which an engine holds" in message
    assert "keys and values of 0 tokens have room, and one sequence may need 4,096. Raise it, raise" in message


def test_what_may_not_fit_is_told_and_not_refused() -> None:
    """It depends on what is in a step: short answers make small trees."""
    plan, config = planned(training={"zero_stage": 2})
    refuse_shortage(plan, config)
    (shortage,) = shortages(plan, config)
    assert "for a micro-batch of 4,096 tokens, and has 74.5 GiB of a GPU's 74.5." in shortage.sentence
    assert shortage.advice == (
        "Set training.gradient_checkpointing: true, or lower training.micro_batch_tokens (now 4096)."
    )
    crowded, config = planned(engine={"gpu_memory_utilization": 0.22}, training={"zero_stage": 3})
    refuse_shortage(crowded, config)
    assert any("of workspace" in str(shortage) for shortage in shortages(crowded, config))


def test_the_memory_of_gpus_is_the_smallest_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sizes = [80 * GIB, 40 * GIB]
    for name, answer in (
        ("nvmlInit", lambda: None),
        ("nvmlShutdown", lambda: None),
        ("nvmlDeviceGetCount", lambda: 2),
        ("nvmlDeviceGetHandleByIndex", lambda index: index),
        ("nvmlDeviceGetMemoryInfo", lambda index: SimpleNamespace(total=sizes[index])),
    ):
        monkeypatch.setattr(pynvml, name, answer)
    monkeypatch.setattr(hardware, "DRIVER", tmp_path / "none")
    assert hardware.gpu_bytes() is None
    monkeypatch.setattr(hardware, "DRIVER", tmp_path)
    assert hardware.gpu_bytes() == 40 * GIB


def test_a_run_that_does_not_fit_is_refused_while_it_is_prepared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = make_tiny_model(tmp_path)
    config = Config.model_validate(
        {"model": {"path": model}, "task": {"name": "comparison"}, "run": {"max_steps": 1}}
    )
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(hardware, "gpus", lambda: 1)
    monkeypatch.setattr(hardware, "gpu_bytes", lambda: 1 << 20)
    with pytest.raises(ConfigError, match=r"training\.ranks: 1 at training\.zero_stage 1 do not fit"):
        prepare.prepare(config, trains=True)
    monkeypatch.setattr(hardware, "gpu_bytes", lambda: 80 << 30)
    assert prepare.prepare(config, trains=True).memory_plan(80 << 30, True).shared
    monkeypatch.setattr(prepare, "machine_bytes", lambda: 1 << 20)
    offload = config.training.model_copy(update={"offload": "optimizer"})
    with pytest.raises(ConfigError, match=r"training\.offload: optimizer does not fit"):
        prepare.prepare(config.model_copy(update={"training": offload}), trains=True)
