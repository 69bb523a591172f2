"""A run's processes, and the loop's ports made of them."""

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray

from configs.schema import Config
from generation.engine import EngineSpec, SampleRequest
from generation.groups import Group
from launch import hardware
from launch.prepare import Prepared
from launch.processes.actors import EngineProcess, RankProcess
from launch.processes.cluster import Placement, connected, place
from launch.processes.waiting import wait
from rewards.task import Task
from trainer.diagnosis.alarm import DType
from trainer.scored import ScoredGroup
from trainer.update.forest import Batch
from trainer.update.rank import RankReport, RankSpec

GRACE = 10.0
"""Seconds more for the ranks than for the engines that they send to: the word about a late engine comes first."""


@dataclass(frozen=True)
class Engines:
    """`trainer.ports.Generator`: the pool of engines."""

    actors: Mapping[str, Any]
    timeout: float

    def sample(self, requests: Sequence[SampleRequest]) -> tuple[Group, ...]:
        """Deals the requests to the engines like cards, and the groups back in order."""
        hands = {name: requests[i :: len(self.actors)] for i, name in enumerate(self.actors)}
        calls = {name: self.actors[name].sample.remote(hand) for name, hand in hands.items() if hand}
        groups = wait(calls, "sampling", self.timeout, "cluster.sample_timeout")
        dealt = {name: iter(group) for name, group in groups.items()}
        order = itertools.cycle(self.actors)
        return tuple(next(dealt[next(order)]) for _ in requests)


@dataclass(frozen=True)
class TaskScorer:
    """`trainer.ports.Scorer`: the task, in this process (a user's reward function has its own)."""

    task: Task

    def score(self, groups: Sequence[Group]) -> tuple[ScoredGroup, ...]:
        """See `Scorer.score`."""
        return tuple(
            ScoredGroup(
                group,
                self.task.score(
                    group.prompt,
                    [completion.text for completion in group.completions],
                    [completion.finish_reason == "length" for completion in group.completions],
                    [completion.token_ids.tolist() for completion in group.completions],
                ),
            )
            for group in groups
        )


@dataclass(frozen=True)
class Ranks:
    """`trainer.ports.Learner` and `WeightSync`: all ranks together.

    dtype: of the weights, resolved.
    """

    actors: Mapping[str, Any]
    engines: Mapping[str, Any]
    config: Config
    dtype: DType

    def update(self, batch: Batch) -> RankReport:
        """See `Learner.update`."""
        calls = {
            name: actor.update.remote(forests, batch.num_samples, batch.num_tokens)
            for (name, actor), forests in zip(self.actors.items(), batch.forests, strict=True)
        }
        reports = wait(calls, "updating", self.config.cluster.update_timeout, "cluster.update_timeout")
        return together(list(reports.values()))

    def sync(self, policy_version: int) -> None:
        """See `WeightSync.sync`: ranks send, then every engine confirms version and checksum."""
        phase, timeout = (
            f"syncing the weights of policy version {policy_version}",
            self.config.cluster.publish_timeout,
        )
        sent = {name: actor.sync_weights.remote(policy_version) for name, actor in self.actors.items()}
        checksum = wait(sent, phase, timeout + GRACE, "cluster.publish_timeout")["rank 0"]
        confirmed = {name: e.confirm.remote(policy_version, checksum) for name, e in self.engines.items()}
        wait(confirmed, phase, timeout, "cluster.publish_timeout")

    def save(self, folder: str) -> None:
        """Writes the model in Hugging Face format."""
        calls = {name: actor.save.remote(folder) for name, actor in self.actors.items()}
        wait(calls, "saving the model", self.config.cluster.update_timeout, "cluster.update_timeout")


def together(reports: Sequence[RankReport]) -> RankReport:
    """One report of all ranks' parts."""
    return RankReport(
        loss=sum(report.loss for report in reports),
        kl=sum(report.kl for report in reports),
        clip_fraction=sum(report.clip_fraction for report in reports),
        logprob_gap=sum(report.logprob_gap for report in reports),
        grad_norm=reports[0].grad_norm,
        learning_rate=reports[0].learning_rate,
    )


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
    config = prepared.config
    spec = EngineSpec(
        model=prepared.model,
        dtype=hardware.dtype(config.model.dtype, placement.gpu),
        trust_remote_code=config.model.trust_remote_code,
        context_length=prepared.context_length,
        backend=placement.backend,
        gpu=placement.gpu,
        engine=config.engine,
        sampling=config.sampling,
    )
    threads = _threads(config.engine.threads, len(placement.engines))
    return {
        f"engine {index}": _actor(process).options(**options, runtime_env=threads).remote(spec)
        for index, options in enumerate(placement.engines)
    }


def _start_ranks(
    prepared: Prepared, placement: Placement, engines: Mapping[str, Any], process: type[RankProcess]
) -> dict[str, Any]:
    config = prepared.config
    start = config.cluster.start_timeout
    threads = _threads(config.training.threads, len(placement.ranks))
    ranks = {
        f"rank {index}": _actor(process).options(**options, runtime_env=threads).remote()
        for index, options in enumerate(placement.ranks)
    }
    address = wait({"rank 0": ranks["rank 0"].address.remote()}, "starting", start, "cluster.start_timeout")
    host, port, transfer_port = address["rank 0"]
    calls = {
        name: rank.start.remote(
            RankSpec(
                rank=index,
                model=prepared.model,
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


def _threads(configured: int | None, sharing: int) -> dict[str, Any]:
    """Ray would give every process one thread. Engines and ranks take turns: each kind gets all cores."""
    threads = configured or max(1, len(os.sched_getaffinity(0)) // sharing)
    return {"env_vars": {"OMP_NUM_THREADS": str(threads)}}


def _actor(process: type) -> Any:
    """Ray's types do not know that a decorated class has `options`."""
    return ray.remote(process)
