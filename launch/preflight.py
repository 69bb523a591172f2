"""What is known to fail before Ray or vLLM starts, once the task and the model's context length are read."""

import difflib
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from configs.derived import has_own_gpus
from configs.errors import ConfigError
from configs.machine import machine_bytes
from configs.schema import Config
from generation.engine import unknown_arguments
from launch import hardware
from launch.memory import ITEM_BYTES, rank_host_bytes, rank_state_bytes
from rewards.prompts import Prompt
from trainer.update.lora import targeted

PROCESSES_PER_CORE, THREADS_PER_CORE = 4, 8
"""Beyond these, processes only wait for each other, at every barrier for the slowest, until a time limit is over."""

PROCESSES = 8
"""That any machine may be asked for."""

GIB = 1 << 30


def refuse_misfits(
    config: Config,
    task_prompts: Sequence[Prompt],
    context_length: int,
    gpu: bool,
    held_out: Sequence[Prompt] = (),
) -> None:
    """Raises ConfigError naming everything that does not fit together.

    context_length: tokens that the model can attend to. gpu: whether there is one to run on. held_out: prompts that
    are evaluated only.
    """
    problems = [
        *_batch_problems(config, task_prompts),
        *_held_out_problems(config, task_prompts, held_out),
        *_length_problems(config, (*task_prompts, *held_out), context_length),
        *_machine_problems(config, gpu),
    ]
    if problems:
        raise ConfigError(*problems)


def refuse_unknown_arguments(config: Config) -> None:
    """Raises ConfigError: `engine.vllm` or `training.deepspeed` names what vLLM or DeepSpeed does not know. Imports
    them if there is anything to check."""
    problems: list[str] = []
    if config.engine.vllm:
        problems += [
            f"engine.vllm: vLLM's LLM has no argument {name}. "
            + (f"Did you mean {' or '.join(near)}?" if near else "Correct it, or leave it out.")
            for name, near in unknown_arguments(config.engine.vllm).items()
        ]
    if config.training.deepspeed:
        from trainer.update.passed_on import refusals

        problems += [f"training.deepspeed: {refusal}" for refusal in refusals(config.training)]
    if problems:
        raise ConfigError(*problems)


def refuse_unknown_targets(config: Config, layers: Collection[str]) -> None:
    """Raises ConfigError: a target of the LoRA adapter is none of the model's linear layers. layers: their names."""
    ends = sorted({layer.rpartition(".")[2] for layer in layers})
    problems = []
    for target in config.training.lora_target_modules if config.training.lora_rank else ():
        if targeted(layers, (target,)):
            continue
        near = difflib.get_close_matches(target, ends, n=1)
        problems.append(
            f"training.lora_target_modules: {target} is no linear layer of {config.model.path}, which has "
            f"{', '.join(ends) or 'none'}; embeddings and head get no adapter. "
            + (f"Did you mean {near[0]}?" if near else "Choose of these, or leave it out for all-linear.")
        )
    if problems:
        raise ConfigError(*problems)


def refuse_uneven_heads(config: Config, heads: int | None) -> None:
    """Raises ConfigError: an engine's GPUs cannot share the model's attention heads evenly.

    heads: None if unknown.
    """
    workers = config.engine.tensor_parallel_size
    if heads and heads % workers:
        even = ", ".join(str(number) for number in range(1, heads + 1) if heads % number == 0)
        raise ConfigError(
            f"engine.tensor_parallel_size: {workers} does not divide the {heads} attention heads of "
            f"{config.model.path}. It must be one of {even}."
        )


def refuse_too_large(config: Config, parameters: int | None, gpu: bool, trains: bool, adapter: int = 0) -> None:
    """Raises ConfigError with figures: what is to be started cannot fit this machine.

    parameters: weights of the model, None where they are not known. trains: whether ranks are started too. adapter:
    weights of the LoRA adapter, 0 without one.
    """
    ranks = config.training.ranks if trains else 0
    problems = [*_core_problems(config, ranks, len(os.sched_getaffinity(0)))]
    if not gpu:
        dtype = hardware.dtype(config.model.dtype, gpu)
        problems += _memory_problems(config, ranks, parameters or 0, adapter, dtype, machine_bytes())
    if problems:
        raise ConfigError(*problems)


def refuse_too_few_gpus(config: Config, gpus: int, trains: bool) -> None:
    """Raises ConfigError: there are GPUs, and engines and ranks neither fit on them nor can share them.

    config: with numbers of engines and ranks. gpus: of all machines. trains: whether ranks are started too.
    """
    engines, workers = config.engine.engines, config.engine.tensor_parallel_size
    ranks = config.training.ranks if trains else 0
    if has_own_gpus(gpus, engines, workers, ranks) or not gpus:
        return
    if workers > 1 or engines > ranks or gpus < ranks:
        of_ranks = f" and training.ranks {ranks}" if ranks else ""
        shared = (
            f", or {ranks} if each engine shares one with a rank (engine.tensor_parallel_size 1 and no more engines "
            "than ranks)"
        )
        raise ConfigError(
            f"There are {gpus} GPUs; engine.engines {engines} × engine.tensor_parallel_size {workers}{of_ranks} need "
            f"{engines * workers + ranks} of them{shared if ranks else ''}. Lower them, or add GPUs."
        )


def refuse_sleep(config: Config, gpus: int) -> None:
    """Raises ConfigError: engines are to sleep while ranks update, and share no GPU with one. config, gpus: see
    `refuse_too_few_gpus`."""
    engine = config.engine
    apart = has_own_gpus(gpus, engine.engines, engine.tensor_parallel_size, config.training.ranks)
    if engine.sleep and (apart or not gpus):
        where = "have GPUs of their own" if apart else "run on CPUs"
        raise ConfigError(
            f"engine.sleep: true is only of use to engines that share a GPU with a rank, and these {where}. Leave it "
            "out."
        )


def of_little_use(config: Config, gpus: int) -> Iterator[str]:
    """What is allowed and gains little here, in sentences. config, gpus: see `refuse_too_few_gpus`."""
    engine, training = config.engine, config.training
    apart = has_own_gpus(gpus, engine.engines, engine.tensor_parallel_size, training.ranks)
    if config.sampling.ahead and not apart:
        yield (
            f"sampling.ahead: {config.sampling.ahead} gains little here, where engines and ranks share "
            f"{'GPUs' if gpus else 'cores'}: each is slower while the other works. 0 lets them take turns."
        )
    if training.offload and not gpus:
        yield (
            f"training.offload: {training.offload} gains nothing here, where ranks have no GPUs: all is in the "
            "machine's memory already. Leave it out."
        )


def _core_problems(config: Config, ranks: int, cores: int) -> Iterator[str]:
    engines, most = config.engine.engines, max(PROCESSES, PROCESSES_PER_CORE * cores)
    if engines + ranks > most:
        names = f"engine.engines: {engines}" + (f" and training.ranks: {ranks}" if ranks else "")
        yield (
            f"{names} are {engines + ranks} processes, and this machine has {cores} cores, on which at most {most} "
            "can work. Lower them, or name a cluster with cluster.address."
        )
    threads = {
        "engine.threads": config.engine.threads,
        "training.threads": config.training.threads if ranks else None,
    }
    for name, number in threads.items():
        if number is not None and number > THREADS_PER_CORE * cores:
            yield (
                f"{name}: {number} is too many for this machine's {cores} cores; it must be at most "
                f"{THREADS_PER_CORE * cores}. Leave it out to share out the cores."
            )


def _memory_problems(
    config: Config, ranks: int, parameters: int, adapter: int, dtype: str, available: float
) -> Iterator[str]:
    """Counts what is certain to be held, without activations and libraries. available: bytes."""
    weights, cache = parameters * ITEM_BYTES[dtype] / GIB, config.engine.kv_cache_gib
    state = rank_state_bytes(config.training, parameters, dtype, adapter)
    moved = rank_host_bytes(config.training, parameters, dtype, adapter)  # into the same memory
    parts = {name: (size + moved.get(name, 0.0)) / GIB for name, size in state.items()}
    engines, have = config.engine.engines, available / GIB
    need = engines * (cache + weights) + ranks * sum(parts.values())
    if need > have:
        held = ", ".join(f"{size:.1f} GiB of {name}" for name, size in parts.items())
        of_ranks = f" and each of {ranks} ranks {held}" if ranks else ""
        yield (
            f"This run does not fit into memory: each of {engines} engines holds {cache} GiB of keys and values "
            f"(engine.kv_cache_gib) and {weights:.1f} GiB of weights{of_ranks}, {need:.1f} GiB in all, and "
            f"this machine has {have:.1f}. Lower engine.kv_cache_gib, engine.engines or training.ranks, raise "
            "training.zero_stage, or take a smaller model."
        )


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


def _held_out_problems(config: Config, prompts: Sequence[Prompt], held_out: Sequence[Prompt]) -> Iterator[str]:
    trained = {prompt.token_ids for prompt in prompts}
    both = [prompt for prompt in held_out if prompt.token_ids in trained]
    if both and config.task.eval_overlap == "refuse":
        yield (
            f"{len(both)} of {len(held_out)} held-out prompts are trained on too (the first is {both[0].id}), so "
            "what is measured on them is no truth about others. Take them out, choose another task.eval_split or "
            "task.eval_dataset, or set task.eval_overlap: allow."
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
            "there is none, on this machine or on the cluster that cluster.address or RAY_ADDRESS names; without one "
            "it must be 1. Leave it out, or raise engine.engines."
        )
    if config.engine.fork == "on" and config.engine.tensor_parallel_size > 1:
        yield (
            "engine.fork: on needs an engine in one process, and engine.tensor_parallel_size "
            f"{config.engine.tensor_parallel_size} makes several. Set engine.fork to auto, or "
            "engine.tensor_parallel_size to 1."
        )
