"""Where engines and ranks run on a cluster, and how weights get from the ones to the others."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from configs.errors import ConfigError
from configs.schema import Config
from launch.engine_spec import Backend
from launch.processes.waiting import wait


@dataclass(frozen=True)
class Placement:
    """Where processes run.

    backend: of weight transfer. engines, ranks: Ray's options for each process's actor.
    """

    backend: Backend
    engines: tuple[Mapping[str, Any], ...]
    ranks: tuple[Mapping[str, Any], ...]

    @property
    def gpu(self) -> bool:
        """Whether processes run on GPUs."""
        return self.backend != "shared_memory"


def place(config: Config) -> Placement:
    """The placement on the connected cluster.

    With GPUs for all, engines and ranks have their own (`nccl`); with fewer, engine i and rank i share one
    (`ipc`); without GPUs all share the CPUs (`shared_memory`).

    Raises ConfigError: the cluster is too small.
    """
    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), resources.get("CPU", 0.0)
    engines, ranks = config.engine.engines, config.training.ranks
    workers = config.engine.tensor_parallel_size
    if not gpus:
        # A share of the CPUs for each: where there are fewer than processes, they take turns anyway.
        options = {"num_cpus": min(1.0, int(1000 * cpus / (engines + ranks)) / 1000)}
        return Placement("shared_memory", (options,) * engines, (options,) * ranks)
    if gpus >= engines * workers + ranks:
        return Placement("nccl", ({"num_gpus": workers},) * engines, ({"num_gpus": 1},) * ranks)
    if workers > 1 or engines > ranks or gpus < ranks:
        raise ConfigError(
            f"The cluster has {gpus} GPUs; engine.engines {engines} × engine.tensor_parallel_size {workers} and "
            f"training.ranks {ranks} need {engines * workers + ranks} of them, or {ranks} if each engine shares one "
            "with a rank (engine.tensor_parallel_size 1 and no more engines than ranks). Lower them, or add GPUs."
        )
    bundles = placement_group([{"GPU": 1, "CPU": 1}] * ranks)
    ready = {"the placement group": bundles.ready()}
    wait(ready, "placing engines and ranks", config.cluster.start_timeout, "cluster.start_timeout")
    shared = tuple(
        {
            "num_gpus": 0.5,
            "num_cpus": 0.5,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(bundles, placement_group_bundle_index=index),
        }
        for index in range(ranks)
    )
    return Placement("ipc", shared[:engines], shared)
