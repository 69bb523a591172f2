"""What an engine needs to know, of a run's checked input."""

import math
from typing import Literal

from configs.schema import Config
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
        sleeps=config.engine.sleep and backend == "ipc",
        engine=config.engine,
        sampling=config.sampling,
    )


def time_limits(config: Config) -> dict[str, str]:
    """vLLM's own limits where an engine is several processes, as environment variables that it reads on import: 600
    seconds for a start and 300 for a step, whatever is configured."""
    return {
        "VLLM_ENGINE_READY_TIMEOUT_S": str(math.ceil(config.cluster.start_timeout)),
        "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": str(math.ceil(config.cluster.sample_timeout)),
    }


def lone_engine_spec(prepared: Prepared) -> EngineSpec:
    """Of an engine in this process, without a cluster around it."""
    return engine_spec(prepared, "ipc" if hardware.has_gpu() else "shared_memory")
