"""The settings whose null depends on memory: how much of a step a rank computes at once, and what it keeps of it."""

from collections.abc import Callable, Iterator
from itertools import product

from configs.schema import Config, TrainingSettings
from launch.memory_plan import MemoryPlan

SIZES = (8192, 4096, 2048, 1024)
"""Of micro-batches, in tokens. A GPU is busy with the first; a CPU with any."""

ON_CPUS = 4096
"""The largest there: more would only take more memory."""

CPU_SHARE = 0.9
"""Of the machine's memory; the rest is the system's."""


def fitted(asked: TrainingSettings, config: Config, plan: Callable[[Config], MemoryPlan]) -> Config:
    """`config` with the largest micro-batches for which there is memory, and activations kept if there is memory for
    that; with the least that can be had if there is not enough for any.

    asked: where these two settings may be null; what is set stays. plan: of a run with a configuration.
    """
    for choice in _choices(asked, on_gpus=plan(config).hardware.gpu_bytes is not None):
        found = config.model_copy(update={"training": config.training.model_copy(update=choice)})
        if _fits(plan(found)):
            break
    return found


def _choices(asked: TrainingSettings, on_gpus: bool) -> Iterator[dict[str, int | bool]]:
    """The fastest first: to compute activations again takes a third more time, small micro-batches less than that."""
    sizes = [size for size in SIZES if on_gpus or size <= ON_CPUS]
    checkpointing = [False, True]
    if asked.micro_batch_tokens is not None:
        sizes = [asked.micro_batch_tokens]
    if asked.gradient_checkpointing is not None:
        checkpointing = [asked.gradient_checkpointing]
    for again, size in product(checkpointing, sizes):
        yield {"micro_batch_tokens": size, "gradient_checkpointing": again}


def _fits(plan: MemoryPlan) -> bool:
    if plan.hardware.gpu_bytes is None:
        return plan.total <= CPU_SHARE * plan.hardware.host_bytes
    return sum(plan.rank.values()) <= plan.update_room
