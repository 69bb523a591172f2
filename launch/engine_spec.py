"""What an engine needs to know, of a run's checked input."""

from typing import Literal

from generation.engine import EngineSpec
from launch import hardware
from launch.prepare import Prepared

Backend = Literal["shared_memory", "ipc", "nccl"]
"""How weights get from ranks to engines: without a GPU, to engines that share a GPU with a rank, to others."""


def engine_spec(prepared: Prepared, backend: Backend) -> EngineSpec:
    """Of every engine of the run."""
    config, gpu = prepared.config, backend != "shared_memory"
    return EngineSpec(
        model=prepared.model,
        revision=prepared.revision,
        dtype=hardware.dtype(config.model.dtype, gpu),
        trust_remote_code=config.model.trust_remote_code,
        context_length=prepared.context_length,
        backend=backend,
        gpu=gpu,
        engine=config.engine,
        sampling=config.sampling,
    )


def lone_engine_spec(prepared: Prepared) -> EngineSpec:
    """Of an engine in this process, without a cluster around it."""
    return engine_spec(prepared, "ipc" if hardware.has_gpu() else "shared_memory")
