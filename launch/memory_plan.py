"""The memory of a run: what each of its processes will hold, and whether it fits, before anything starts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from configs.derived import has_own_gpus
from configs.errors import ConfigError
from configs.schema import Config
from launch.memory import (
    ITEM_BYTES,
    activation_bytes,
    engine_workspace_bytes,
    logits_bytes,
    rank_buffer_bytes,
    rank_host_bytes,
    rank_state_bytes,
    token_cache_bytes,
)
from trainer.update.buffer_sizes import IPC_BUFFER_BYTES
from trainer.update.model_shape import ModelShape

GIB = 1 << 30

CACHE = "keys and values"

STATE = ("weights", "gradients", "optimizer")
"""Parts of a rank that it holds whatever is in a step."""

LIBRARIES = {"engine": 1 << 30, "rank": 3 << 28}
"""On a CPU a process before it holds a model: Python, torch, and vLLM or DeepSpeed, as far as it is not shared."""

CUDA = 1 << 30
"""Assumed for a process on a GPU: its context, kernels, and what NCCL, cuBLAS and captured graphs hold."""

NCCL_BUFFER_BYTES = 2 << 30
"""Of the rank that sends weights over NCCL: two of 1 GiB (`vllm.distributed.weight_transfer.packed_tensor`)."""

LARGE_GPU = 70 * GIB
BATCH = {True: (16_384, 1024), False: (8192, 256)}
"""vLLM's `max_num_batched_tokens` and `max_num_seqs` on a large GPU and on others (`vllm.engine.arg_utils`)."""


@dataclass(frozen=True)
class Hardware:
    """dtype: of the weights, `bfloat16` or `float32`. gpus: that the run can use, and gpu_bytes: of the smallest of
    them; None where it runs on CPUs. host_bytes: of the machine that they are in; infinite for several machines."""

    dtype: str
    gpus: int
    gpu_bytes: float | None
    host_bytes: float = float("inf")


@dataclass(frozen=True)
class Load:
    """sequence: tokens of prompt and completion at most. nodes: of a micro-batch's forest. bytes_per_node:
    activations of one, as measured; None for the formula."""

    sequence: int
    nodes: float
    bytes_per_node: float | None


@dataclass(frozen=True)
class MemoryPlan:
    """What each engine (each of its workers) and each rank holds, in bytes by part; a rank's is empty without ranks.

    host: what each rank has in the machine's memory instead (`training.offload`); empty on CPUs, whose it is.
    engines, ranks: processes, a worker of an engine being one. shared: whether an engine and a rank have one GPU
    together. engine_room, rank_room: bytes of a GPU that one may hold; infinite on a CPU, where all share the
    machine's. update_room: the same of a rank while it updates, when engines may sleep. token_cache: bytes of a
    token's keys and values.
    """

    engine: Mapping[str, float]
    rank: Mapping[str, float]
    host: Mapping[str, float]
    engines: int
    ranks: int
    hardware: Hardware
    load: Load
    shared: bool
    engine_room: float
    rank_room: float
    update_room: float
    token_cache: float

    @property
    def total(self) -> float:
        """Bytes of all processes."""
        return sum(self.engine.values()) * self.engines + sum(self.rank.values()) * self.ranks

    @property
    def cached_tokens(self) -> int:
        """Tokens whose keys and values an engine has room for."""
        return int(self.engine[CACHE] / self.token_cache)


EXAMPLE_PLAN = MemoryPlan(
    engine={"weights": 1.2e9, "workspace": 2.1e9, "libraries": 1.1e9, CACHE: 3.2e10},
    rank={"weights": 1.2e9, "gradients": 2.4e9, "optimizer": 7.2e9, "activations": 9e9, "libraries": 1.1e9},
    host={},
    engines=1,
    ranks=1,
    hardware=Hardware("bfloat16", gpus=1, gpu_bytes=8e10),
    load=Load(sequence=2048, nodes=4096.0, bytes_per_node=None),
    shared=True,
    engine_room=3.6e10,
    rank_room=4.4e10,
    update_room=4.4e10,
    token_cache=114_688.0,
)


def memory_plan(
    config: Config, shape: ModelShape, hardware: Hardware, load: Load, trains: bool = True, adapter: int = 0
) -> MemoryPlan:
    """By the formulas of `launch.memory`.

    config: with numbers of engines and ranks. trains: whether there are ranks. adapter: weights of a LoRA adapter.
    """
    engine, ranks = config.engine, config.training.ranks if trains else 0
    workers, dtype, gpu_bytes = engine.tensor_parallel_size, hardware.dtype, hardware.gpu_bytes
    shared = gpu_bytes is not None and not has_own_gpus(hardware.gpus, engine.engines, workers, ranks)
    engine_room = rank_room = update_room = float("inf")
    if gpu_bytes is not None:
        engine_room = engine.gpu_memory_utilization * gpu_bytes
        rank_room = gpu_bytes - engine_room if shared else gpu_bytes
        update_room = gpu_bytes - CUDA if shared and engine.sleep else rank_room
    on_gpus = ranks and gpu_bytes is not None
    return MemoryPlan(
        engine=_engine_bytes(config, shape, hardware, engine_room),
        rank=_rank_bytes(config, shape, hardware, load, shared, adapter) if ranks else {},
        host=rank_host_bytes(config.training, shape.parameters, dtype, adapter) if on_gpus else {},
        engines=engine.engines * workers,
        ranks=ranks,
        hardware=hardware,
        load=load,
        shared=shared,
        engine_room=engine_room,
        rank_room=rank_room,
        update_room=update_room,
        token_cache=token_cache_bytes(shape, dtype, workers),
    )


def _engine_bytes(config: Config, shape: ModelShape, hardware: Hardware, room: float) -> dict[str, float]:
    engine, dtype, workers = config.engine, hardware.dtype, config.engine.tensor_parallel_size
    parts = {"weights": shape.parameters * ITEM_BYTES[dtype] / workers}
    if hardware.gpu_bytes is None:
        return parts | {"libraries": float(LIBRARIES["engine"]), CACHE: float(engine.kv_cache_gib * GIB)}
    tokens, sequences = BATCH[hardware.gpu_bytes >= LARGE_GPU]
    tokens = int(engine.vllm.get("max_num_batched_tokens", tokens))
    sequences = int(engine.vllm.get("max_num_seqs", sequences))
    parts["workspace"] = engine_workspace_bytes(shape, dtype, workers, tokens, sequences)
    parts["libraries"] = float(CUDA)
    return parts | {CACHE: max(0.0, room - sum(parts.values()))}


def _rank_bytes(
    config: Config, shape: ModelShape, hardware: Hardware, load: Load, shared: bool, adapter: int
) -> dict[str, float]:
    training, dtype = config.training, hardware.dtype
    parts = rank_state_bytes(training, shape.parameters, dtype, adapter)
    parts["activations"] = (
        activation_bytes(shape, dtype, load.nodes, training.gradient_checkpointing)
        if load.bytes_per_node is None
        else load.bytes_per_node * load.nodes
    )
    parts["logits"] = logits_bytes(shape, dtype, load.nodes, hardware.gpu_bytes)
    parts["buffers"] = rank_buffer_bytes(training, shape.parameters, dtype)
    if hardware.gpu_bytes is None:
        for part, size in rank_host_bytes(training, shape.parameters, dtype, adapter).items():
            parts[part] += size  # the same memory
        return parts | {"libraries": float(LIBRARIES["rank"])}
    largest = float(ITEM_BYTES[dtype] * shape.vocab_size * shape.hidden_size)
    parts["buffers"] += largest if training.offload else 0.0  # a gradient on its way
    parts["buffers"] += max(IPC_BUFFER_BYTES, largest) if shared else NCCL_BUFFER_BYTES
    return parts | {"libraries": float(CUDA)}


@dataclass(frozen=True)
class Shortage:
    """sentence: what does not fit, with figures. advice: one sentence, with settings."""

    sentence: str
    advice: str

    def __str__(self) -> str:
        return f"{self.sentence} {self.advice}"


def refuse_shortage(plan: MemoryPlan, config: Config) -> None:
    """Raises ConfigError with figures: what is held whatever is in a step does not fit on a GPU, or beside them."""
    state = (*_state_shortage(plan, config), *_host_shortage(plan, config))
    if found := [*_engine_shortage(plan, config, ("weights",)), *state]:
        raise ConfigError(*map(str, found))


def shortages(plan: MemoryPlan, config: Config) -> Iterator[Shortage]:
    """What does not fit on a GPU, by all parts of the plan, or beside them; nothing on a CPU."""
    yield from _engine_shortage(plan, config, ("weights", "workspace", "libraries"))
    yield from _host_shortage(plan, config)
    state = [*_state_shortage(plan, config)]
    yield from state or _update_shortage(plan, config)


def _engine_shortage(plan: MemoryPlan, config: Config, parts: Sequence[str]) -> Iterator[Shortage]:
    """parts: what is held besides keys and values."""
    engine, gpu_bytes = config.engine, plan.hardware.gpu_bytes
    held = {part: size for part, size in plan.engine.items() if part in parts}
    tokens = max(0, int((plan.engine_room - sum(held.values())) / plan.token_cache)) if gpu_bytes else 0
    if gpu_bytes is None or tokens >= plan.load.sequence:
        return
    more = "" if plan.shared else ", raise engine.tensor_parallel_size"
    yield Shortage(
        f"engine.gpu_memory_utilization: {engine.gpu_memory_utilization} of a GPU's {_gib(gpu_bytes)} GiB is "
        f"{_gib(plan.engine_room)} GiB, of which an engine holds {_parts(held)}: keys and values of {tokens:,} "
        f"tokens have room, and one sequence may need {plan.load.sequence:,}.",
        f"Raise it{more}, lower sampling.max_completion_length, or take a smaller model or larger GPUs.",
    )


def _state_shortage(plan: MemoryPlan, config: Config) -> Iterator[Shortage]:
    """What a rank holds between steps."""
    training, room = config.training, plan.rank_room
    state = {part: plan.rank[part] for part in STATE if plan.ranks}
    need = sum(state.values())
    if need <= room:
        return
    ways = ["lower engine.gpu_memory_utilization"] if plan.shared else []
    if (training.ranks > 1 or training.offload) and training.zero_stage < 3:
        ways.append(f"raise training.zero_stage (now {training.zero_stage}, at most 3)")
    ways.append("raise training.ranks, on more GPUs")
    if training.offload is None:
        ways.append("set training.offload: optimizer")
    elif training.offload == "optimizer":
        ways.append("set training.offload: parameters and training.zero_stage: 3")
    advice = ", or ".join((*ways, "take a smaller model or larger GPUs"))
    yield Shortage(
        f"training.ranks: {training.ranks} at training.zero_stage {training.zero_stage} do not fit: each holds "
        f"{_parts(state)}, {_gib(need)} GiB in all, and has {_room(plan, config, room)}.",
        f"{advice[0].upper()}{advice[1:]}.",
    )


def _host_shortage(plan: MemoryPlan, config: Config) -> Iterator[Shortage]:
    """What ranks have in the machine's memory."""
    held = {part: size * plan.ranks for part, size in plan.host.items()}
    need, have = sum(held.values()), plan.hardware.host_bytes
    if need > have:
        yield Shortage(
            f"training.offload: {config.training.offload} does not fit: in the machine's memory training.ranks "
            f"{plan.ranks} hold {_parts(held)}, {_gib(need)} GiB in all, and it has {_gib(have)}.",
            "Leave it out, train adapters with training.lora_rank, or take a smaller model or a larger machine.",
        )


def _update_shortage(plan: MemoryPlan, config: Config) -> Iterator[Shortage]:
    need, training = sum(plan.rank.values()), config.training
    if need <= plan.update_room:
        return
    ways = [] if training.gradient_checkpointing else ["set training.gradient_checkpointing: true"]
    ways += ["set engine.sleep: true"] if plan.update_room < need <= (plan.hardware.gpu_bytes or 0) - CUDA else []
    ways.append(f"lower training.micro_batch_tokens (now {training.micro_batch_tokens})")
    advice = ", or ".join(ways)
    yield Shortage(
        f"A rank may need {_parts(plan.rank)}, {_gib(need)} GiB in all, for a micro-batch of {plan.load.nodes:,.0f} "
        f"tokens, and has {_room(plan, config, plan.update_room)}.",
        f"{advice[0].upper()}{advice[1:]}.",
    )


def _room(plan: MemoryPlan, config: Config, room: float) -> str:
    """What a rank has, in words."""
    beside = f" beside engine.gpu_memory_utilization {config.engine.gpu_memory_utilization}" if plan.shared else ""
    if plan.shared and room > plan.rank_room:
        beside = " beside an engine that sleeps"
    return f"{_gib(room)} GiB of a GPU's {_gib(plan.hardware.gpu_bytes or 0)}{beside}"


def _parts(parts: Mapping[str, float]) -> str:
    return ", ".join(f"{_gib(size)} GiB of {part}" for part, size in parts.items())


def _gib(size: float) -> str:
    return f"{size / GIB:.1f}"
