"""What a step will take: memory by process, and seconds by phase."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from configs.derived import has_own_gpus
from configs.schema import Config
from launch.check.look import Look, nodes, reduced
from launch.memory import ITEM_BYTES
from launch.memory_plan import EXAMPLE_PLAN, Hardware, Load, MemoryPlan, memory_plan
from launch.prepare import Prepared
from trainer.signal.advantages import Lesson, assign
from trainer.signal.thinning import thinned
from trainer.update.forest import Forest, pack
from trainer.update.probe import UpdateCost
from trainer.update.rank import zero_stage

WEIGHT_SYNC_COPIES = 5
"""Times that every weight is copied on its way: into the bucket, shared memory, the engine's, packed, and summed."""

PROBE_NODES = 256
"""Of the forest that the cost of an update is measured on: as small as gives steady figures."""

RANGE = 0.5, 2.0
"""A step may take between so many times what is predicted, which extrapolates from short measurements on a machine
whose other work comes and goes."""


@dataclass(frozen=True)
class Forecast:
    """plan: memory by process. seconds: of an early step, by phase. overlap: engines sample the next step while
    ranks, on GPUs of their own, update.

    tree_tokens: of that step's update. available: bytes of memory free for all processes of this machine; None on
    GPUs, of which each process has its part.
    """

    plan: MemoryPlan
    available: float | None
    seconds: Mapping[str, float]
    tree_tokens: float
    overlap: bool = False

    @property
    def seconds_per_step(self) -> float:
        beside = min(self.seconds["sampling"], self.seconds["update"]) if self.overlap else 0.0
        return sum(self.seconds.values()) - beside


EXAMPLE_FORECAST = Forecast(
    plan=EXAMPLE_PLAN,
    available=None,
    seconds={"sampling": 1.6, "update": 6.1, "weight sync": 1.2},
    tree_tokens=1400.0,
)


def probe_forest(look: Look, config: Config) -> Forest:
    """Of what was seen, `PROBE_NODES` at most: the trees that a rank would compute."""
    lessons = _lessons(look, config, config.sampling.num_generations)
    return pack(lessons, 1, min(PROBE_NODES, config.training.micro_batch_tokens)).forests[0][0]


def forecast(look: Look, prepared: Prepared, cost: UpdateCost, forks: bool) -> Forecast:
    """Of a step on groups like those seen; the policy sharpens as it learns, and then steps take less.

    forks: whether groups are sampled by forking, so that sampling takes as long as there are distinct tokens.
    """
    config = prepared.config
    sampling, training, engine = config.sampling, config.training, config.engine
    workers = engine.tensor_parallel_size
    wanted, seen = sampling.num_generations, look.groups[0].group.num_generations

    def step_nodes(num_generations: int) -> float:
        return nodes([lesson.scored.group for lesson in _lessons(look, config, num_generations)])

    def step_tokens(num_generations: int) -> float:
        return step_tree_tokens(_lessons(look, config, num_generations), config)

    whole = _lessons(look, config, min(wanted, seen))
    kept = [thinned(lesson, training.max_distinct_completions, config.seed) for lesson in whole]
    # Where there are more completions than an update computes, a larger group costs it no more.
    tree_tokens = (
        step_tree_tokens(kept, config)
        if any(a is not b for a, b in zip(kept, whole, strict=True))
        else _at(wanted, seen, step_tokens)
    )
    scale = sampling.prompts_per_step / len(look.groups)
    sampled = _at(wanted, seen, step_nodes) if forks else step_nodes(seen) * wanted / seen
    sample = look.seconds * sampled / look.nodes * scale / engine.engines

    trained = cost.adapter or cost.parameters
    passes = 1 + (1 / 3 if training.beta else 0)  # the reference model has a forward pass only
    update = tree_tokens / training.ranks * cost.seconds_per_node * passes
    update += trained / (training.ranks if zero_stage(training, cost.dtype) else 1) * cost.seconds_per_parameter

    size = cost.parameters * ITEM_BYTES[cost.dtype]
    micro_batch = min(training.micro_batch_tokens, tree_tokens / training.ranks)
    return Forecast(
        plan=memory_plan(
            config,
            replace(prepared.shape, parameters=cost.parameters),
            Hardware(cost.dtype, prepared.gpus, cost.gpu_bytes, prepared.host_bytes),
            Load(prepared.context_length, micro_batch, cost.bytes_per_node),
            adapter=cost.adapter,
        ),
        available=None if cost.gpu_bytes else available_memory(),
        seconds={
            "sampling": sample,
            "update": update * training.num_iterations,
            "weight sync": size * WEIGHT_SYNC_COPIES * cost.seconds_per_byte,
        },
        tree_tokens=tree_tokens,
        overlap=bool(sampling.ahead) and has_own_gpus(prepared.gpus, engine.engines, workers, training.ranks),
    )


def step_tree_tokens(lessons: Sequence[Lesson], config: Config) -> float:
    """Nodes of a step's forests. What prompts have in common is in a forest once, so every group more than those seen
    counts as what the later half of them added."""

    def planted(number: int) -> int:
        return pack(lessons[:number], config.training.ranks, config.training.micro_batch_tokens).tree_tokens

    wanted, known = config.sampling.prompts_per_step, len(lessons)
    if wanted <= known:
        return planted(wanted)
    half = known // 2
    added = (planted(known) - (planted(half) if half else 0)) / (known - half)
    return planted(known) + added * (wanted - known)


def available_memory() -> float:
    """Bytes that processes can still get: of the machine, or of the control group that this process is in."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    free = next(float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text(encoding="ascii").strip()) != "max":
        used = float((limit.parent / "memory.current").read_text(encoding="ascii"))
        free = min(free, float(text) - used)
    return free


def _at(wanted: int, seen: int, tokens: Callable[[int], float]) -> float:
    """`tokens` of groups of `wanted` samples; beyond `seen`, every doubling brings what the last one brought."""
    if wanted <= seen:
        return tokens(wanted)
    doubling = tokens(seen) / tokens(seen // 2)
    return tokens(seen) * math.pow(doubling, math.log2(wanted / seen))


def _lessons(look: Look, config: Config, num_generations: int) -> Sequence[Lesson]:
    """Every group seen, at that size at most. Whether it teaches does not matter to what its tree costs."""
    plain = config.training.model_copy(update={"mask_truncated_completions": False})
    return assign([reduced(group, num_generations, config.seed) for group in look.groups], plain)
