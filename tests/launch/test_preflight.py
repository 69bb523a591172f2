from typing import Any

import pytest

from configs.errors import ConfigError
from configs.schema import Config
from launch.preflight import refuse_misfits
from rewards.prompts import Prompt


def config(**sections: dict[str, Any]) -> Config:
    task = {"dataset": "d.jsonl", "reward": "r.py:f"}
    return Config.model_validate({"task": task, "run": {"max_steps": 1}} | sections)


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


def test_all_problems_are_named_at_once() -> None:
    given = config(sampling={"prompts_per_step": 8}, engine={"tensor_parallel_size": 2})
    with pytest.raises(ConfigError) as error:
        refuse_misfits(given, prompts(200), 100, gpu=False)
    assert len(error.value.problems) == 3
