"""Where processes go: on a Ray of several nodes with invented GPUs, on this machine."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st
from ray._raylet import Config as RayConfig  # type: ignore[attr-defined]
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group, remove_placement_group

from configs.derived import derived
from configs.errors import ConfigError
from configs.schema import Config
from launch.prepare import Prepared, gpus_of
from launch.processes import cluster, placement, start
from launch.processes.placement import rank_nodes
from launch.processes.restarts import Restarts
from launch.processes.session import environment, session, unheard
from launch.processes.watch import Watch
from tests.end_to_end.runs import ROOT
from tests.launch.processes.stubs import StubEngine, StubRank
from trainer.update.model_shape import EXAMPLE_SHAPE

MACHINES = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 8), min_size=1)


@given(MACHINES, st.integers(0, 12), st.integers(0, 6), st.integers(1, 4))
def test_ranks_leave_the_engines_room_and_are_together_where_that_can_be(
    free: dict[str, int], ranks: int, engines: int, workers: int
) -> None:
    def room(left: Mapping[str, int]) -> bool:
        return sum(gpus // workers for gpus in left.values()) >= engines

    nodes = rank_nodes(free, ranks, engines, workers, "a")
    possible = room(free) and sum(free.values()) >= ranks + engines * workers
    assert (nodes is not None) == possible
    if nodes is None:
        return
    left = {node: gpus - nodes.count(node) for node, gpus in free.items()}
    assert len(nodes) == ranks and min(left.values()) >= 0 and room(left)
    for node in free:
        if free[node] >= ranks > 0 and room({**free, node: free[node] - ranks}):
            assert len(set(nodes)) == 1


def test_ranks_are_at_home_or_else_where_the_least_room_is() -> None:
    free = {"large": 8, "small": 4, "home": 6}
    assert rank_nodes(free, 4, 4, 1, "home") == ("home",) * 4
    assert rank_nodes(free, 4, 4, 1, "none of them") == ("small",) * 4
    assert rank_nodes({"home": 4, "other": 3}, 3, 1, 4, "home") == ("other",) * 3  # an engine needs all of home
    assert rank_nodes({"home": 4, "other": 3}, 5, 1, 2, "home") == ("home",) * 4 + ("other",)


@pytest.fixture(scope="module")
def nodes() -> Iterator[dict[int, str]]:
    """A Ray of this process with machines of 0, 4 and 2 GPUs; their ids, by the number of GPUs."""
    if ray.is_initialized():
        pytest.skip("this process is connected to another Ray")
    common: dict[str, Any] = {
        "node_ip_address": "127.0.0.1",
        "include_dashboard": False,
        "object_store_memory": 80 << 20,
    }
    visible = {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}  # a machine cannot have more than are visible
    with (
        session() as folder,
        environment({**cluster._settings(folder), **visible}),
        cluster._on_loopback(),
        unheard(),
    ):
        RayConfig.initialize("")
        together = Cluster(shutdown_at_exit=False)
        together.add_node(num_cpus=1, num_gpus=0, temp_dir=str(folder / "ray"), **common)
        for gpus in (4, 2):
            together.add_node(wait=False, num_cpus=1, num_gpus=gpus, **common)
        together.wait_for_nodes(60)
        path = {"env_vars": {"PYTHONPATH": str(ROOT)}}
        ray.init(address=together.address, runtime_env=path, **cluster.QUIET)
        os.environ["RAY_ADDRESS"] = together.address
        try:
            yield {int(node["Resources"].get("GPU", 0)): node["NodeID"] for node in ray.nodes()}
        finally:
            del os.environ["RAY_ADDRESS"]
            cluster._shut_down()


def prepared(gpus: int, folder: str = str(ROOT), **sections: Any) -> Prepared:
    config = Config.model_validate({"task": {"name": "comparison"}, "run": {"max_steps": 1}} | sections)
    task: Any = None
    return Prepared(derived(config, gpus), gpus, folder, None, 64, EXAMPLE_SHAPE, 0, task)


@contextmanager
def running(what: Prepared, folder: Path | None = None) -> Iterator[tuple[list[Any], list[Any], list[str]]]:
    """Where engines are, where ranks are, and what was told."""
    told: list[str] = []
    stubs: Any = StubEngine, StubRank
    restarts = Restarts(0, told.append)
    with start.processes(what, told.append, Watch(), restarts, None, folder, *stubs) as (engines, ranks):
        where = [
            ray.get([actor.where.remote() for actor in kind.actors.values()], timeout=30) for kind in (engines, ranks)
        ]
        yield where[0], where[1], told


@contextmanager
def busy(node: str, gpus: int) -> Iterator[None]:
    """While others use so many GPUs of the machine."""
    others = placement_group([{"GPU": gpus}], bundle_label_selector=[{placement.NODE_LABEL: node}])
    ray.get(others.ready(), timeout=30)
    try:
        yield
    finally:
        remove_placement_group(others)


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return str(tmp_path / "model")


def test_the_clusters_gpus_are_counted_before_connecting(nodes: dict[int, str]) -> None:
    assert gpus_of(prepared(0).config) == 6


@pytest.mark.timeout(120)
def test_ranks_are_packed_and_the_workers_of_an_engine_are_on_one_machine(
    nodes: dict[int, str], model: str, tmp_path: Path
) -> None:
    what = prepared(6, model, engine={"tensor_parallel_size": 2})
    with running(what, tmp_path) as (engines, ranks, told):
        assert [(node, gpus) for node, gpus, _ in engines] == [(nodes[2], [0, 1])]
        assert [node for node, _, _ in ranks] == [nodes[4]] * 4
        assert sorted(gpu for _, gpus, _ in ranks for gpu in gpus) == [0, 1, 2, 3]
    assert told == ["starting engines and ranks (engines: 1 × 2 GPU, ranks: 4, weights: nccl)"]
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]  # no token is left


@pytest.mark.timeout(120)
def test_an_engine_that_shares_its_gpu_has_loaded_before_the_rank_does(
    nodes: dict[int, str], model: str, tmp_path: Path
) -> None:
    """With GPUs in use before, which are free again."""
    with running(prepared(1, model), tmp_path) as ([engine], [rank], told):
        assert engine[:2] == rank[:2]
        assert engine[2] < rank[2]
    assert told == ["starting engines and ranks (engines: 1 × 0.5 GPU, ranks: 1, weights: ipc)"]


def test_gpus_in_use_are_refused_with_figures(nodes: dict[int, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "FREED", 2.0)
    what = prepared(6, engine={"tensor_parallel_size": 4}, training={"ranks": 1})
    with busy(nodes[4], 1), pytest.raises(ConfigError) as refused, running(what):
        pass
    message = str(refused.value)
    assert "needs 5 GPUs: for 1 engines (engine.engines) of 4 on one machine each and 1 ranks" in message
    assert "The cluster has 6, of which 1 are in use." in message
    assert f"3 of 4 on machine 127.0.0.1 ({nodes[4][:6]})" in message
    assert f"2 of 2 on machine 127.0.0.1 ({nodes[2][:6]})" in message


def test_machines_without_the_model_or_the_runs_folder_are_refused(
    nodes: dict[int, str], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in /proc/self/cwd, this process alone sees."""
    monkeypatch.chdir(tmp_path)
    what = prepared(1, "/proc/self/cwd/model", model={"path": "./model"})
    with pytest.raises(ConfigError) as refused, running(what, Path("/proc/self/cwd")):
        pass
    of_model, of_folder = refused.value.problems
    assert f"and not on machine 127.0.0.1 ({nodes[2][:6]}): no such folder. Put it on a path that all" in of_model
    assert f"is not the same folder on machine 127.0.0.1 ({nodes[2][:6]}), where a rank is to write" in of_folder
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]
