"""Starting a run's processes."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray

from configs.schema import Config
from launch import hardware
from launch.engine_spec import engine_spec
from launch.prepare import Prepared
from launch.processes.actors import EngineProcess, RankProcess
from launch.processes.cluster import connected
from launch.processes.placement import Placement, place
from launch.processes.pool import Engines, Ranks
from launch.processes.waiting import wait
from trainer.update.rank import RankSpec


@contextmanager
def engines_only(prepared: Prepared, phase: Callable[[str], None]) -> Iterator[Engines]:
    """The engines, without ranks."""
    phase("starting Ray")
    with connected(prepared.config):
        placement = place(prepared.config)
        phase("starting the engines")
        engines = _start_engines(prepared, placement)
        _await_engines(prepared.config, engines)
        yield Engines(engines, prepared.config.cluster.sample_timeout)


@contextmanager
def engines_and_ranks(
    prepared: Prepared,
    phase: Callable[[str], None],
    engine_process: type[EngineProcess] = EngineProcess,
    rank_process: type[RankProcess] = RankProcess,
) -> Iterator[tuple[Engines, Ranks]]:
    """The engines and the ranks, loaded and connected."""
    config = prepared.config
    phase("starting Ray")
    with connected(config):
        placement = place(config)
        phase("starting engines and ranks")
        engines = _start_engines(prepared, placement, engine_process)
        ranks = _start_ranks(prepared, placement, engines, rank_process)
        _await_engines(config, engines)
        dtype = hardware.dtype(config.model.dtype, placement.gpu)
        yield Engines(engines, config.cluster.sample_timeout), Ranks(ranks, engines, config, dtype)


def _start_engines(
    prepared: Prepared, placement: Placement, process: type[EngineProcess] = EngineProcess
) -> dict[str, Any]:
    spec = engine_spec(prepared, placement.backend)
    return {
        f"engine {index}": _actor(process).options(**options).remote(spec)
        for index, options in enumerate(placement.engines)
    }


def _start_ranks(
    prepared: Prepared, placement: Placement, engines: Mapping[str, Any], process: type[RankProcess]
) -> dict[str, Any]:
    config = prepared.config
    start = config.cluster.start_timeout
    ranks = {
        f"rank {index}": _actor(process).options(**options).remote() for index, options in enumerate(placement.ranks)
    }
    address = wait({"rank 0": ranks["rank 0"].address.remote()}, "starting", start, "cluster.start_timeout")
    host, port, transfer_port = address["rank 0"]
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
                master_address=host,
                master_port=port,
                timeout=config.cluster.update_timeout,
                seed=config.seed,
            ),
            placement.backend,
            engines,
            config.engine.tensor_parallel_size,
            transfer_port,
            config.cluster.publish_timeout,
        )
        for index, (name, rank) in enumerate(ranks.items())
    }
    wait(calls, "starting the ranks", start, "cluster.start_timeout")
    return ranks


def _await_engines(config: Config, engines: Mapping[str, Any]) -> None:
    ready = {name: engine.ready.remote() for name, engine in engines.items()}
    wait(ready, "starting the engines", config.cluster.start_timeout, "cluster.start_timeout")


def _actor(process: type) -> Any:
    """Ray's types do not know that a decorated class has `options`."""
    return ray.remote(process)
