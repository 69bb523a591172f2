"""Starting a run's processes."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from launch import hardware
from launch.engine_spec import engine_spec
from launch.prepare import Prepared
from launch.processes.actors import EngineProcess, RankProcess
from launch.processes.cluster import connected
from launch.processes.machines import refuse_small_gpus, refuse_strangers
from launch.processes.placement import Placement, placed
from launch.processes.pool import Engines, Ranks
from launch.processes.restarts import Restarts
from launch.processes.waiting import wait
from launch.processes.watch import Watch
from trainer.update.rank import RankSpec


@contextmanager
def engines_only(prepared: Prepared, phase: Callable[[str], None]) -> Iterator[Engines]:
    """The engines, without ranks."""
    config, watch = prepared.config, Watch()
    phase("starting Ray")
    with connected(config), placed(prepared, trains=False) as placement, ended(watch):
        refuse_strangers(prepared, placement)
        refuse_small_gpus(prepared, placement, trains=False, tell=phase)
        phase(_starting("starting the engines", placement))
        restarts = Restarts(config.run.max_restarts, phase)
        engines = _engines(prepared, placement, EngineProcess, None, watch, restarts)
        engines.await_start()
        yield engines


@contextmanager
def engines_and_ranks(
    prepared: Prepared,
    phase: Callable[[str], None],
    engine_process: type[EngineProcess] = EngineProcess,
    rank_process: type[RankProcess] = RankProcess,
) -> Iterator[tuple[Engines, Ranks]]:
    """The engines and the ranks, loaded and connected, on a cluster of their own."""
    phase("starting Ray")
    restarts = Restarts(prepared.config.run.max_restarts, phase)
    with (
        connected(prepared.config),
        processes(prepared, phase, Watch(), restarts, None, None, engine_process, rank_process) as both,
    ):
        yield both


@contextmanager
def processes(
    prepared: Prepared,
    phase: Callable[[str], None],
    watch: Watch,
    restarts: Restarts,
    checkpoint: tuple[str, int] | None,
    folder: Path | None,
    engine_process: type[EngineProcess] = EngineProcess,
    rank_process: type[RankProcess] = RankProcess,
) -> Iterator[tuple[Engines, Ranks]]:
    """The engines and the ranks on the connected cluster; leaving, they are ended.

    checkpoint: to go on from, its folder and policy version. folder: that ranks write into, if they do.
    """
    with placed(prepared, trains=True) as placement, ended(watch):
        refuse_strangers(prepared, placement, folder)
        refuse_small_gpus(prepared, placement, trains=True, tell=phase)
        phase(_starting("starting engines and ranks", placement))
        names = [f"rank {index}" for index in range(len(placement.ranks))]
        actors = {
            name: _actor(rank_process).options(**options).remote()
            for name, options in zip(names, placement.ranks, strict=True)
        }
        for name, actor in actors.items():
            watch.add(name, actor)
        dtype = hardware.dtype(prepared.config.model.dtype, placement.gpu)
        ranks = Ranks(actors, prepared.config, dtype, placement.backend, watch)
        engines = _engines(prepared, placement, engine_process, ranks, watch, restarts)
        if _sleeps(prepared, placement):
            ranks.before_update = engines.sleep
        if placement.backend == "ipc":
            engines.await_start()  # vLLM counts what others hold of its GPU as its own when it sizes its cache
        _start_ranks(prepared, placement, actors, checkpoint, watch)
        engines.await_start()
        yield engines, ranks


def _sleeps(prepared: Prepared, placement: Placement) -> bool:
    """Whether engines and ranks leave their memory to each other."""
    return prepared.config.engine.sleep and placement.backend == "ipc"


@contextmanager
def ended(watch: Watch) -> Iterator[None]:
    """Leaving, all processes that are watched are ended."""
    try:
        yield
    finally:
        watch.clear()


def _engines(
    prepared: Prepared,
    placement: Placement,
    process: type[EngineProcess],
    ranks: Ranks | None,
    watch: Watch,
    restarts: Restarts,
) -> Engines:
    spec = engine_spec(prepared, placement.backend)

    def start(index: int) -> Any:
        return _actor(process).options(**placement.engines[index]).remote(spec)

    return Engines(len(placement.engines), start, prepared.config, ranks, watch, restarts)


def _start_ranks(
    prepared: Prepared,
    placement: Placement,
    ranks: Mapping[str, Any],
    checkpoint: tuple[str, int] | None,
    watch: Watch,
) -> None:
    config = prepared.config
    timeout, setting = config.cluster.start_timeout, "cluster.start_timeout"
    found = wait({"rank 0": ranks["rank 0"].rendezvous.remote()}, "starting the ranks", timeout, setting, watch=watch)
    calls = {
        name: rank.start.remote(
            RankSpec(
                rank=index,
                model=prepared.model,
                revision=prepared.revision,
                dtype=hardware.dtype(config.model.dtype, placement.gpu),
                trust_remote_code=config.model.trust_remote_code,
                gpu=placement.gpu,
                training=config.training,
                max_completion_length=config.sampling.max_completion_length,
                max_steps=config.run.max_steps,
                rendezvous=found["rank 0"],
                timeout=config.cluster.update_timeout,
                seed=config.seed,
                lagged=config.sampling.ahead > 0,
                yields=_sleeps(prepared, placement),
            ),
            checkpoint,
        )
        for index, (name, rank) in enumerate(ranks.items())
    }
    wait(calls, "starting the ranks", timeout, setting, watch=watch)
    for name in ranks:
        watch.ready(name)


def _starting(text: str, placement: Placement) -> str:
    """The phase, with what was chosen where there are GPUs."""
    if not placement.gpu:
        return text
    engines, ranks = len(placement.engines), len(placement.ranks)
    per_engine = f"engines: {engines} × {placement.engines[0]['num_gpus']:g} GPU"
    return f"{text} ({per_engine}, ranks: {ranks}, weights: {placement.backend})"


def _actor(process: type) -> Any:
    """Ray's types do not know that a decorated class has `options`."""
    return ray.remote(process)
