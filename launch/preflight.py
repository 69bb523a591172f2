"""What is known to fail before Ray or vLLM starts, once the task and the model's context length are read."""

from collections import Counter
from collections.abc import Iterator, Sequence

from configs.errors import ConfigError
from configs.schema import Config
from rewards.prompts import Prompt


def refuse_misfits(config: Config, task_prompts: Sequence[Prompt], context_length: int, gpu: bool) -> None:
    """Raises ConfigError naming everything that does not fit together.

    context_length: tokens that the model can attend to. gpu: whether there is one to run on.
    """
    problems = [
        *_batch_problems(config, task_prompts),
        *_length_problems(config, task_prompts, context_length),
        *_machine_problems(config, gpu),
    ]
    if problems:
        raise ConfigError(*problems)


def _batch_problems(config: Config, prompts: Sequence[Prompt]) -> Iterator[str]:
    source = f"task.dataset {config.task.dataset}" if config.task.dataset else f"the task {config.task.name}"
    wanted, held = config.sampling.prompts_per_step, len(prompts)
    if not prompts:
        yield f"{source} has no prompts. It needs at least one."
    elif wanted > held:
        more = "Add rows" if config.task.dataset else "Raise task.size"
        yield (
            f"sampling.prompts_per_step: {wanted} is larger than the data set: {source} has {held} prompts. "
            f"It must be at most {held}. {more}, or lower sampling.prompts_per_step."
        )
    repeated = [(name, count) for name, count in Counter(prompt.id for prompt in prompts).items() if count > 1]
    if repeated:
        name, count = repeated[0]
        more = f" (and {len(repeated) - 1} more ids are)" if len(repeated) > 1 else ""
        yield (
            f"{source}: the prompt id {name} is given {count} times{more}; ids must be unique. Correct the "
            "column `id`, or leave it out and rows are numbered."
        )


def _length_problems(config: Config, prompts: Sequence[Prompt], context_length: int) -> Iterator[str]:
    configured = config.engine.max_model_len
    if configured is not None and configured > context_length:
        yield (
            f"engine.max_model_len: {configured} is more than the context of {config.model.path}; it must "
            f"be at most {context_length} tokens. Lower it, or leave it out for what the longest prompt needs."
        )
    limit = min(context_length, configured or context_length)
    name = "engine.max_model_len" if limit == configured else f"the context of {config.model.path}"
    if not prompts:
        return
    longest = max(prompts, key=lambda prompt: len(prompt.token_ids))
    length, room = len(longest.token_ids), limit - len(longest.token_ids)
    if room < 1:
        yield (
            f"prompt {longest.id} has {length} tokens; {name} is {limit}, and at least one token of "
            "completion must fit too. Shorten the prompt, or use a model with a longer context."
        )
    elif config.sampling.max_completion_length > room:
        wanted = config.sampling.max_completion_length
        yield (
            f"sampling.max_completion_length: {wanted} does not fit: prompt {longest.id} has {length} "
            f"tokens, together {length + wanted}, and {name} is {limit}. It must be at most {room}. Lower "
            "it, or shorten the longest prompts."
        )
    if empty := [prompt.id for prompt in prompts if not prompt.token_ids]:
        yield f"prompt {empty[0]} has no tokens. Give it a text, or the model a chat template."


def _machine_problems(config: Config, gpu: bool) -> Iterator[str]:
    if config.engine.tensor_parallel_size > 1 and not gpu:
        yield (
            f"engine.tensor_parallel_size: {config.engine.tensor_parallel_size} needs as many GPUs, and "
            "there is none here; without one it must be 1. Leave it out, or raise engine.engines."
        )
    if config.engine.fork == "on" and config.engine.tensor_parallel_size > 1:
        yield (
            "engine.fork: on needs an engine in one process, and engine.tensor_parallel_size "
            f"{config.engine.tensor_parallel_size} makes several. Set engine.fork to auto, or "
            "engine.tensor_parallel_size to 1."
        )
