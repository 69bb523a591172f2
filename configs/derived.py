"""The settings whose null depends on where a run takes place: how many processes, and how engines use a GPU. What
depends on memory as well (`launch.fitted`) has the values that go without saying."""

from collections.abc import Mapping
from typing import Any

from configs.schema import Config, Section

DEDICATED, SHARED = 0.9, 0.45
"""Share of a GPU's memory for an engine that has it for itself, and for one beside a rank."""

MICRO_BATCH_TOKENS = 4096


def derived(config: Config, gpus: int) -> Config:
    """The configuration with a value for every setting that is `Derived`; what is set stays.

    gpus: of the machine, or of all machines of the cluster.
    """
    engine, training = config.engine, config.training
    engines, ranks = processes(engine.engines, training.ranks, engine.tensor_parallel_size, gpus)
    workers = engine.tensor_parallel_size
    dedicated = workers > 1 or has_own_gpus(gpus, engines, workers, ranks)  # of several GPUs none can be shared
    values: dict[str, dict[str, Any]] = {
        "engine": {
            "engines": engines,
            "gpu_memory_utilization": DEDICATED if dedicated else SHARED,
            "enforce_eager": gpus == 0,
        },
        "training": {"ranks": ranks, "micro_batch_tokens": MICRO_BATCH_TOKENS, "gradient_checkpointing": False},
    }
    return config.model_copy(update={name: _filled(getattr(config, name), new) for name, new in values.items()})


def _filled(section: Section, values: Mapping[str, Any]) -> Section:
    """With the values where it has none."""
    return section.model_copy(
        update={name: value for name, value in values.items() if getattr(section, name) is None}
    )


def processes(engines: int | None, ranks: int | None, workers: int, gpus: int) -> tuple[int, int]:
    """Numbers of engines and ranks, where they are None derived from the other and the GPUs.

    workers: GPUs of an engine. With one GPU an engine and a rank share it; with more each process has its own, and
    half of the GPUs are the engines'.

    >>> [processes(None, None, 1, gpus) for gpus in (0, 1, 2, 8)]
    [(1, 1), (1, 1), (1, 1), (4, 4)]
    >>> processes(None, None, 2, 8), processes(None, 1, 1, 8)
    ((2, 4), (7, 1))
    """
    if not gpus:
        return engines or 1, ranks or 1
    if engines is None:
        room = gpus - ranks if ranks else gpus // 2
        engines = max(room // workers, 0) or (ranks if ranks and workers == 1 else 1)
    left = gpus - engines * workers
    return engines, ranks or (left if left > 0 else gpus)


def has_own_gpus(gpus: int, engines: int, workers: int, ranks: int) -> bool:
    """Whether there are GPUs, and enough for every worker of every engine and every rank to have its own."""
    return 0 < engines * workers + ranks <= gpus
