"""Where engines and ranks run on a cluster, and how weights get from the ones to the others."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.state import available_resources_per_node, total_resources_per_node
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from configs.derived import has_own_gpus
from configs.errors import ConfigError
from configs.schema import Config
from launch.engine_spec import Backend, time_limits
from launch.errors import ClusterLost
from launch.limited import limited
from launch.preflight import refuse_too_few_gpus
from launch.prepare import Prepared
from launch.processes.waiting import wait

NODE_LABEL = "ray.io/node-id"

FREED = 15.0
"""Seconds for GPUs to be free: those of processes that have just ended count as busy for a moment."""

ANSWER = 10.0
"""Seconds for Ray to say which GPUs are free."""

PHASE = "reserving GPUs for engines and ranks"


@dataclass(frozen=True)
class Placement:
    """Where processes run.

    backend: of weight transfer. engines, ranks: Ray's options for each process's actor. nodes: Ray's ids of the
    machines that any of them may run on, rank_nodes: that ranks may.
    """

    backend: Backend
    engines: tuple[Mapping[str, Any], ...]
    ranks: tuple[Mapping[str, Any], ...]
    nodes: frozenset[str]
    rank_nodes: frozenset[str]

    @property
    def gpu(self) -> bool:
        """Whether processes run on GPUs."""
        return self.backend != "shared_memory"


@contextmanager
def placed(prepared: Prepared, trains: bool) -> Iterator[Placement]:
    """The placement on the connected cluster; leaving, what is reserved is given back.

    With GPUs for all, engines and ranks have their own (`nccl`); with fewer, engine i and rank i share one
    (`ipc`); without GPUs all share the CPUs (`shared_memory`). Ranks are together on one machine where that is
    possible, first on this one; the workers of an engine always are. trains: whether there are ranks.

    Raises ConfigError: the cluster is too small, or too busy. Raises RemoteError: Ray did not reserve in time.
    """
    config = prepared.config
    if not prepared.gpus:
        yield _on_cpus(config, trains)
        return
    groups: list[Any] = []
    try:
        yield _on_gpus(config, prepared.gpus, trains, groups)
    except ClusterLost:  # and what was reserved with it
        raise
    except BaseException:
        _give_back(groups)
        raise
    _give_back(groups)


def rank_nodes(free: Mapping[str, int], ranks: int, engines: int, workers: int, home: str) -> tuple[str, ...] | None:
    """The machine of each rank, so that the engines fit beside them, each on one machine; None if that cannot be.

    free: GPUs by machine. workers: GPUs of an engine. home: the machine to prefer. All ranks are on one machine if
    one has the room, the tightest of several; else on few.
    """
    for node in sorted(free, key=lambda node: (node != home, free[node])):
        beside = {**free, node: free[node] - ranks}
        if beside[node] >= 0 and sum(gpus // workers for gpus in beside.values()) >= engines:
            return (node,) * ranks
    left = dict(free)
    for _ in range(engines):
        roomy = [node for node in left if left[node] >= workers]
        if not roomy:
            return None
        left[min(roomy, key=lambda node: (node == home, left[node]))] -= workers
    order = sorted(left, key=lambda node: (node != home, -left[node]))
    places = [node for node in order for _ in range(left[node])]
    return tuple(places[:ranks]) if len(places) >= ranks else None


def _on_cpus(config: Config, trains: bool) -> Placement:
    engines, ranks = config.engine.engines, config.training.ranks
    # A share of the CPUs for each: where there are fewer than processes, they take turns anyway.
    cpus = ray.cluster_resources().get("CPU", 0.0)
    options = {"num_cpus": min(1.0, int(1000 * cpus / (engines + ranks)) / 1000)}
    nodes = frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU"))
    return Placement(
        "shared_memory",
        (options,) * engines,
        (options,) * ranks if trains else (),
        nodes,
        nodes if trains else frozenset(),
    )


def _on_gpus(config: Config, gpus: int, trains: bool, groups: list[Any]) -> Placement:
    """groups: takes what is reserved, as it is."""
    engines, workers = config.engine.engines, config.engine.tensor_parallel_size
    ranks = config.training.ranks if trains else 0
    refuse_too_few_gpus(config, gpus, trains)
    own = has_own_gpus(gpus, engines, workers, ranks)
    nodes = _await_room(config, ranks, engines if own else 0)
    timeout, setting = config.cluster.start_timeout, "cluster.start_timeout"
    since = time.monotonic()

    def reserved(name: str, bundles: list[dict[str, float]], strategy: str, where: Sequence[str] = ()) -> Any:
        labels = [{NODE_LABEL: node} for node in where] or None
        groups.append(placement_group(bundles, strategy, bundle_label_selector=labels))
        wait({name: groups[-1].ready()}, PHASE, timeout, setting, since)
        return groups[-1]

    of_ranks = reserved("the placement group of the ranks", [{"GPU": 1}] * ranks, "PACK", nodes) if ranks else None
    on_ranks = [_in_bundle(of_ranks, index, 1.0 if own else 0.5) for index in range(ranks)]
    on_engines = on_ranks[:engines]
    if own:
        names = [f"the placement group of engine {index}" for index in range(engines)]
        on_engines = [_in_bundle(reserved(name, [{"GPU": workers}], "STRICT_PACK"), 0, workers) for name in names]
    if workers > 1:  # vLLM starts processes of its own then, and waits for them
        on_engines = [options | {"runtime_env": {"env_vars": time_limits(config)}} for options in on_engines]
    return Placement(
        "nccl" if own else "ipc",
        tuple(on_engines),
        tuple(on_ranks),
        frozenset(node for group in groups for node in placement_group_table(group)["bundles_to_node_id"].values()),
        frozenset(nodes),
    )


def _in_bundle(group: Any, index: int, gpus: float) -> dict[str, Any]:
    strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)
    return {"num_gpus": gpus, "num_cpus": 0, "scheduling_strategy": strategy}


def _give_back(groups: Sequence[Any]) -> None:
    for group in groups:
        remove_placement_group(group)


def _await_room(config: Config, ranks: int, engines: int) -> tuple[str, ...]:
    """The machine of each rank. engines: that want GPUs of their own. Raises ConfigError, with figures."""
    deadline = time.monotonic() + FREED
    home = ray.get_runtime_context().get_node_id()
    while True:
        free = _gpus(available_resources_per_node)
        nodes = rank_nodes(free, ranks, engines, config.engine.tensor_parallel_size, home)
        if nodes is not None:
            return nodes
        if time.monotonic() > deadline:
            raise ConfigError(_too_busy(config, ranks, engines, free, _gpus(total_resources_per_node)))
        time.sleep(0.5)


def _gpus(resources_per_node: Any) -> dict[str, int]:
    """Whole GPUs by machine, of those that have any."""
    resources = limited(resources_per_node, ANSWER)
    return {node: int(of_node["GPU"]) for node, of_node in resources.items() if "GPU" in of_node}


def _too_busy(config: Config, ranks: int, engines: int, free: Mapping[str, int], there: Mapping[str, int]) -> str:
    """free, there: GPUs by machine; `free` has not those where all are in use."""
    workers, everywhere = config.engine.tensor_parallel_size, sum(there.values())
    asked = [f"{engines} engines (engine.engines) of {workers} on one machine each"] if engines else []
    asked += [f"{ranks} ranks (training.ranks)"] if ranks else []
    machines = ", ".join(f"{free.get(node, 0)} of {gpus} on {node_name(node)}" for node, gpus in there.items())
    return (
        f"This run needs {ranks + engines * workers} GPUs: for {' and '.join(asked)}. The cluster has {everywhere}, "
        f"of which {everywhere - sum(free.values())} are in use. Free are {machines}. Wait until other jobs have "
        "ended, or lower these settings or engine.tensor_parallel_size."
    )


def node_name(node: str) -> str:
    """A machine of the cluster by its address and the beginning of Ray's id."""
    addresses = {each["NodeID"]: each["NodeManagerAddress"] for each in ray.nodes()}
    return f"machine {addresses.get(node, '?')} ({node[:6]})"
