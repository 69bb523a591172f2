from typing import Any

import pytest

from configs.derived import derived
from configs.errors import ConfigError
from configs.schema import Config
from launch import preflight
from launch.preflight import refuse_misfits, refuse_too_few_gpus, refuse_too_large
from rewards.prompts import Prompt


def config(gpus: int = 0, /, **sections: dict[str, Any]) -> Config:
    task = {"dataset": "d.jsonl", "reward": "r.py:f"}
    return derived(Config.model_validate({"task": task, "run": {"max_steps": 1}} | sections), gpus)


def prompts(*lengths: int) -> tuple[Prompt, ...]:
    return tuple(Prompt(f"p{index}", (), {}, (1,) * length, None) for index, length in enumerate(lengths))


def refused(given: Config, asked: tuple[Prompt, ...], context: int = 100, gpu: bool = False) -> str:
    with pytest.raises(ConfigError) as error:
        refuse_misfits(given, asked, context, gpu)
    return str(error.value)


def test_what_fits_passes() -> None:
    given = config(sampling={"prompts_per_step": 2, "max_completion_length": 10}, engine={"max_model_len": 50})
    refuse_misfits(given, prompts(40, 3), 50, gpu=False)


def test_more_prompts_per_step_than_prompts() -> None:
    message = refused(config(sampling={"prompts_per_step": 8}), prompts(3, 3, 3))
    assert "sampling.prompts_per_step: 8 is larger than the data set: task.dataset d.jsonl has 3 prompts" in message
    assert "at most 3" in message and "Add rows, or lower sampling.prompts_per_step" in message
    message = refused(
        config(task={"name": "comparison", "size": 3}, sampling={"prompts_per_step": 8}), prompts(3, 3, 3)
    )
    assert "the task comparison has 3 prompts" in message and "Raise task.size" in message


def test_held_out_prompts_that_are_trained_on_are_counted_and_refused() -> None:
    asked, given = prompts(3, 4, 5), {"sampling": {"prompts_per_step": 1}}
    with pytest.raises(ConfigError, match=r"2 of 3 held-out prompts are trained on too \(the first is p0\)"):
        refuse_misfits(config(**given), asked, 100, gpu=False, held_out=prompts(4, 5, 6))
    refuse_misfits(config(**given), asked, 100, gpu=False, held_out=prompts(6, 7))
    allowed = config(**given, task={"dataset": "d.jsonl", "reward": "r.py:f", "eval_overlap": "allow"})
    refuse_misfits(allowed, asked, 100, gpu=False, held_out=prompts(4, 5, 6))
    with pytest.raises(ConfigError, match="prompt p0 has 101 tokens"):
        refuse_misfits(config(**given), asked, 100, gpu=False, held_out=prompts(101))


def test_only_engines_that_share_a_gpu_with_a_rank_may_sleep() -> None:
    sleep = {"engine": {"sleep": True}}
    preflight.refuse_sleep(config(1, **sleep), 1)
    for gpus, where in ((0, "run on CPUs"), (2, "have GPUs of their own")):
        with pytest.raises(ConfigError, match=f"engine.sleep: true .* these {where}. Leave it out"):
            preflight.refuse_sleep(config(gpus, **sleep), gpus)
        preflight.refuse_sleep(config(gpus), gpus)


def test_a_step_ahead_is_said_to_gain_little_where_engines_and_ranks_share() -> None:
    ahead = {"sampling": {"ahead": 1}}
    (cores,) = preflight.of_little_use(config(0, **ahead), 0)
    (gpus,) = preflight.of_little_use(config(1, **ahead), 1)
    assert "share cores" in cores and "share GPUs" in gpus
    assert not [*preflight.of_little_use(config(2, **ahead), 2), *preflight.of_little_use(config(1), 1)]


def test_offloading_is_said_to_gain_nothing_without_gpus() -> None:
    offload = {"training": {"offload": "optimizer"}}
    (hint,) = preflight.of_little_use(config(0, **offload), 0)
    assert hint.startswith("training.offload: optimizer gains nothing here") and hint.endswith("Leave it out.")
    assert not [*preflight.of_little_use(config(1, **offload), 1)]


def test_no_prompts() -> None:
    assert "has no prompts" in refused(config(), ())


def test_a_prompt_longer_than_the_context() -> None:
    message = refused(config(sampling={"prompts_per_step": 1}), prompts(3, 101), context=100)
    assert (
        "prompt p1 has 101 tokens; the context of smollm2-135m is 100" in message and "Shorten the prompt" in message
    )


def test_a_prompt_that_leaves_no_room_for_an_answer() -> None:
    assert "prompt p0 has 100 tokens" in refused(config(sampling={"prompts_per_step": 1}), prompts(100), context=100)


def test_a_completion_that_does_not_fit() -> None:
    message = refused(
        config(sampling={"prompts_per_step": 1, "max_completion_length": 16}), prompts(3, 90), context=100
    )
    assert "sampling.max_completion_length: 16 does not fit: prompt p1 has 90 tokens, together 106" in message
    assert "the context of smollm2-135m is 100. It must be at most 10" in message


def test_max_model_len_is_the_limit_where_it_is_set() -> None:
    given = config(sampling={"prompts_per_step": 1, "max_completion_length": 16}, engine={"max_model_len": 60})
    assert "engine.max_model_len is 60. It must be at most 10" in refused(given, prompts(50), context=100)


def test_max_model_len_above_the_context() -> None:
    given = config(sampling={"prompts_per_step": 1}, engine={"max_model_len": 101})
    assert "engine.max_model_len: 101 is more than the context" in refused(given, prompts(3), context=100)


def test_prompt_ids_given_twice() -> None:
    asked = prompts(3, 3) + prompts(3)
    assert "the prompt id p0 is given 2 times; ids must be unique" in refused(
        config(sampling={"prompts_per_step": 1}), asked
    )


def test_a_prompt_without_tokens() -> None:
    assert "prompt p0 has no tokens" in refused(config(sampling={"prompts_per_step": 1}), prompts(0))


def test_forking_needs_an_engine_in_one_process() -> None:
    given = config(sampling={"prompts_per_step": 1}, engine={"tensor_parallel_size": 2, "fork": "on"})
    assert "engine.fork: on needs an engine in one process" in refused(given, prompts(3), gpu=True)


def test_tensor_parallel_needs_gpus() -> None:
    given = config(sampling={"prompts_per_step": 1}, engine={"tensor_parallel_size": 2})
    assert "engine.tensor_parallel_size: 2 needs as many GPUs" in refused(given, prompts(3), gpu=False)
    refuse_misfits(given, prompts(3), 100, gpu=True)


def test_fewer_gpus_than_engines_and_ranks_need() -> None:
    given = config(4, engine={"engines": 2, "tensor_parallel_size": 2}, training={"ranks": 1})
    with pytest.raises(
        ConfigError, match=r"There are 4 GPUs; engine\.engines 2 × engine\.tensor_parallel_size 2 and tr"
    ):
        refuse_too_few_gpus(given, 4, trains=True)
    refuse_too_few_gpus(given, 5, trains=True)
    refuse_too_few_gpus(given, 4, trains=False)
    refuse_too_few_gpus(given, 0, trains=True)
    three = config(2, engine={"engines": 3}, training={"ranks": 2})
    with pytest.raises(ConfigError, match="need 5 of them, or 2 if each engine shares one with a rank"):
        refuse_too_few_gpus(three, 2, trains=True)
    refuse_too_few_gpus(config(2, engine={"engines": 2}, training={"ranks": 2}), 2, trains=True)
    refuse_too_few_gpus(config(1), 1, trains=True)


def test_all_problems_are_named_at_once() -> None:
    given = config(sampling={"prompts_per_step": 8}, engine={"tensor_parallel_size": 2})
    with pytest.raises(ConfigError) as error:
        refuse_misfits(given, prompts(200), 100, gpu=False)
    assert len(error.value.problems) == 3


GIB = 1 << 30


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cores and 16 GiB."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(preflight, "machine_bytes", lambda: 16.0 * GIB)


def too_large(trains: bool = True, gpu: bool = False, parameters: int = 0, **sections: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as error:
        refuse_too_large(config(**sections), parameters, gpu, trains)
    return str(error.value)


@pytest.mark.usefixtures("machine")
def test_more_processes_than_the_cores_can_carry() -> None:
    message = too_large(engine={"engines": 1000})
    assert "engine.engines: 1000 and training.ranks: 1 are 1001 processes, and this machine has 2 cores" in message
    assert "at most 8 can work" in message
    assert "training.ranks: 64 are 65 processes" in too_large(training={"ranks": 64})
    refuse_too_large(config(engine={"engines": 4}, training={"ranks": 4}), 0, gpu=False, trains=True)
    refuse_too_large(config(engine={"engines": 8}, training={"ranks": 64}), 0, gpu=False, trains=False)


@pytest.mark.usefixtures("machine")
def test_more_threads_than_the_cores_can_carry() -> None:
    message = too_large(engine={"threads": 17}, training={"threads": 17})
    assert "engine.threads: 17 is too many for this machine's 2 cores; it must be at most 16" in message
    assert "training.threads: 17" in message
    assert "training.threads" not in too_large(False, engine={"threads": 17}, training={"threads": 17})
    refuse_too_large(config(engine={"threads": 16}, training={"threads": 16}), 0, gpu=False, trains=True)


@pytest.mark.usefixtures("machine")
def test_more_keys_and_values_than_memory() -> None:
    message = too_large(engine={"kv_cache_gib": 9, "engines": 2})
    assert "each of 2 engines holds 9 GiB of keys and values (engine.kv_cache_gib)" in message
    assert "18.0 GiB in all, and this machine has 16.0" in message
    refuse_too_large(config(engine={"kv_cache_gib": 9, "engines": 2}), 0, gpu=True, trains=True)
    refuse_too_large(config(engine={"kv_cache_gib": 8, "engines": 2}), 0, gpu=False, trains=True)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(("stage", "need"), [(0, 33.0), (1, 25.0), (2, 21.0), (3, 17.0)])
def test_what_ranks_hold_follows_from_the_zero_stage(stage: int, need: float) -> None:
    sections: dict[str, dict[str, Any]] = {
        "model": {"dtype": "float32"},
        "training": {"ranks": 2, "zero_stage": stage},
    }
    if stage:  # one more copy of all weights: the masters, which ranks share
        need += 4.0
    message = too_large(True, False, GIB, engine={"kv_cache_gib": 1}, **sections)
    assert (
        f"each of 2 ranks 4.0 GiB of weights, {'2.0' if stage > 1 else '4.0'} GiB of gradients" in message
        or stage == 3
    )
    assert f"{need + 4:.1f} GiB in all" in message
    refuse_too_large(config(engine={"kv_cache_gib": 1}, **sections), GIB, gpu=False, trains=False)


@pytest.mark.usefixtures("machine")
def test_without_gpus_what_is_offloaded_takes_the_same_memory() -> None:
    """And the gradients once more that AdamW reads there, their sums, and the new weights."""
    float32, offload = {"dtype": "float32"}, {"offload": "optimizer"}
    message = too_large(True, False, GIB, model=float32, training=offload)
    assert "8.0 GiB of weights, 12.0 GiB of gradients, 12.0 GiB of optimizer" in message


@pytest.mark.usefixtures("machine")
def test_an_adapter_needs_no_gradients_of_the_model() -> None:
    float32 = {"dtype": "float32"}
    message = too_large(True, False, GIB, model=float32, training={"beta": 0.1})
    assert "8.0 GiB of weights, 4.0 GiB of gradients, 8.0 GiB of optimizer" in message
    lora = config(model=float32, training={"lora_rank": 8, "beta": 0.1})
    refuse_too_large(lora, GIB, gpu=False, trains=True, adapter=GIB // 64)
    with pytest.raises(ConfigError, match=r"8\.2 GiB of weights, 0\.2 GiB of gradients, 0\.5 GiB of optimizer"):
        refuse_too_large(lora, 2 * GIB, gpu=False, trains=True, adapter=GIB // 16)


def test_targets_that_the_model_does_not_have() -> None:
    layers = ["model.layers.0.self_attn.q_proj", "model.layers.10.self_attn.q_proj", "model.layers.0.mlp.up_proj"]

    def check(*targets: str) -> None:
        given = config(training={"lora_rank": 8, "lora_target_modules": targets})
        preflight.refuse_unknown_targets(given, layers)

    check("all-linear")
    check("q_proj", "0.mlp.up_proj", "model.layers.10.self_attn.q_proj")
    preflight.refuse_unknown_targets(config(), [])
    for unknown in ("proj", "0.self_attn.up_proj", "1.self_attn.q_proj"):
        with pytest.raises(
            ConfigError, match=f"{unknown} is no linear layer of smollm2-135m, which has q_proj, up_p"
        ):
            check("q_proj", unknown)
    with pytest.raises(ConfigError, match="Did you mean q_proj"):
        check("q_prj")
    with pytest.raises(ConfigError, match="all-linear is no linear layer of smollm2-135m, which has none"):
        preflight.refuse_unknown_targets(config(training={"lora_rank": 8}), [])


def test_arguments_that_vllm_does_not_know() -> None:
    preflight.refuse_unknown_arguments(config(engine={"vllm": {"max_num_seqs": 8}}))
    with pytest.raises(ConfigError) as error:
        preflight.refuse_unknown_arguments(config(engine={"vllm": {"max_num_sequences": 8}}))
    assert "engine.vllm: vLLM's LLM has no argument max_num_sequences. Did you mean max_num_seqs" in str(error.value)


def passed_on(**deepspeed: Any) -> str:
    with pytest.raises(ConfigError) as error:
        preflight.refuse_unknown_arguments(config(training={"deepspeed": deepspeed}))
    return str(error.value)


def test_what_deepspeed_does_not_know_or_take() -> None:
    known = {
        "zero_optimization": {"overlap_comm": True, "reduce_bucket_size": 1000, "stage3_prefetch_bucket_size": 10},
        "optimizer": {"params": {"eps": 1e-6}},
        "flops_profiler": {"enabled": True},
        "communication_data_type": "fp32",
        "wall_clock_breakdown": True,
    }
    preflight.refuse_unknown_arguments(config(training={"deepspeed": known}))
    for given, near in (
        ({"wall_clock_breakdwon": True}, "wall_clock_breakdwon. Did you mean wall_clock_breakdown"),
        (
            {"zero_optimization": {"reduce_bucket_sise": 1000}},
            "zero_optimization.reduce_bucket_sise. Did you mean reduce_bucket_size",
        ),
        ({"optimizer": {"params": {"epss": 1e-6}}}, "optimizer.params.epss. Did you mean eps"),
        ({"flops_profiler": {"enable": True}}, "flops_profiler.enable. Did you mean enabled"),
        ({"xyzzy": 1}, "xyzzy. Correct it, or leave it out."),
    ):
        assert f"training.deepspeed: DeepSpeed has no setting {near}" in passed_on(**given)
    message = passed_on(zero_optimization={"reduce_bucket_size": 0}, communication_data_type="fp8", nebula={})
    assert "does not take zero_optimization.reduce_bucket_size 0: Input should be greater than 0. Correct" in message
    assert "does not take communication_data_type 'fp8': " in message and "['fp16', 'bf16', 'fp32']" in message
    assert "does not take nebula {}: Nebula checkpointing has been removed" in message


def test_gpus_that_cannot_share_the_heads_evenly() -> None:
    for workers in (1, 2, 3, 6):
        preflight.refuse_uneven_heads(config(8, engine={"tensor_parallel_size": workers}), 6)
    preflight.refuse_uneven_heads(config(8, engine={"tensor_parallel_size": 4}), None)
    with pytest.raises(ConfigError) as error:
        preflight.refuse_uneven_heads(config(8, engine={"tensor_parallel_size": 4}), 6)
    assert "engine.tensor_parallel_size: 4 does not divide the 6 attention heads of smollm2-135m" in str(error.value)
    assert "one of 1, 2, 3, 6." in str(error.value)
