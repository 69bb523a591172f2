"""Ray: a cluster that is there or one of our own, and where engines and ranks are placed on it."""

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from configs.errors import ConfigError
from configs.schema import Config

LOOPBACK = "127.0.0.1"


@contextmanager
def connected(config: Config) -> Iterator[None]:
    """Connected to `cluster.address`, to RAY_ADDRESS (as in a Ray job), or to a Ray of our own on loopback."""
    address = config.cluster.address or os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address:
        try:
            ray.init(address=address, **settings)
        except ConnectionError as error:
            raise ConfigError(
                f"cluster.address: {address!r} does not answer ({error}). Start a cluster with "
                "`ray start --head`, or leave cluster.address and RAY_ADDRESS out to use this machine alone."
            ) from error
    else:
        # Ray's default of 15 starves engines and ranks beside any other program: one thread that waits for its core
        # holds up all the others at the next barrier.
        os.environ.setdefault("RAY_worker_niceness", "0")
        if "RAY_AUTH_TOKEN_PATH" not in os.environ:
            # Else Ray would write a token into the home directory, and from then on ask every other cluster for it.
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        ray.init(
            address="local",
            include_dashboard=config.cluster.dashboard,
            dashboard_host=LOOPBACK,
            _node_ip_address=LOOPBACK,
            # Python code is found where this file is, whatever the working directory.
            runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(_python_path())}},
            **settings,
        )
    try:
        yield
    finally:
        ray.shutdown()


def _python_path() -> list[str]:
    inherited = os.environ.get("PYTHONPATH", "")
    return [str(Path(__file__).resolve().parents[2]), *filter(None, inherited.split(os.pathsep))]


@dataclass(frozen=True)
class Placement:
    """Where processes run.

    backend: of weight transfer. engines, ranks: Ray's options for each process's actor.
    """

    backend: Literal["shared_memory", "ipc", "nccl"]
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
    ray.get(bundles.ready(), timeout=config.cluster.start_timeout)
    shared = tuple(
        {
            "num_gpus": 0.5,
            "num_cpus": 0.5,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(bundles, placement_group_bundle_index=index),
        }
        for index in range(ranks)
    )
    return Placement("ipc", shared[:engines], shared)
