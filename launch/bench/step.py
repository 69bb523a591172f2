"""`cohort bench step`: whole steps through the processes of `cohort train`."""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from launch.bench import trl_peer
from launch.bench.generation import Phase
from launch.bench.measure import OURS, PLAIN, TRL, Measurement, counted, peak_mib, reset_peak
from launch.bench.plain_processes import PlainEngineProcess, PlainRankProcess
from launch.bench.sweep import LONG, POLICIES, Sweep, adjusted, at
from launch.bench.update import RewardsThatDiffer
from launch.errors import RemoteError
from launch.prepare import Prepared
from launch.processes.actors import EngineProcess, RankProcess
from launch.processes.pool import Engines, Ranks
from launch.processes.start import engines_and_ranks
from launch.processes.waiting import wait
from launch.task_scorer import TaskScorer
from trainer import loop
from trainer.evaluation import EvaluatedOn, Evaluation
from trainer.metrics import StepMetrics
from trainer.ports import Learner, Ports
from trainer.run import Run
from trainer.scored import ScoredGroup
from trainer.signal.treatment import Treated
from trainer.update.forest import Batch
from trainer.update.report import RankReport


def measure(sweep: Sweep, prepared: Prepared, phase: Phase) -> Iterator[Measurement]:
    """Our way of every policy and group size, then the plain way of each, then TRL's."""
    yield from _own(sweep, prepared, phase, OURS, EngineProcess, RankProcess)
    alone = replace(prepared, config=adjusted(prepared.config, engine={"fork": "off"}))
    yield from _own(sweep, alone, phase, PLAIN, PlainEngineProcess, PlainRankProcess)
    if sweep.peer:
        for policy, size in sweep.cells():
            phase(f"TRL: steps of {sweep.prompts} × {size}, {policy}")
            yield from _trl(sweep, prepared, policy, size)


def _own(
    sweep: Sweep,
    prepared: Prepared,
    phase: Phase,
    way: str,
    engine_process: type[EngineProcess],
    rank_process: type[RankProcess],
) -> Iterator[Measurement]:
    task = prepared.task
    with engines_and_ranks(prepared, phase, engine_process, rank_process) as (engines, ranks):
        for policy, size in sweep.cells():
            phase(f"{way}: steps of {sweep.prompts} × {size}, {policy}")
            scorer = RewardsThatDiffer(TaskScorer(task, 1), sweep.config.seed)
            logger = Collector(way, policy, engines, ranks, scorer)
            config, prompts = at(prepared.config, policy, size), task.prompts[: sweep.prompts]
            loop.train(
                Run(config, prompts, task.best_reward, ranks.dtype),
                Ports(engines, scorer, logger.learner, engines, logger),
                interrupted=logger.is_slow,
            )
            yield from logger.measurements


class TimedLearner:
    """`trainer.ports.Learner`; seconds: of the latest update."""

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self.seconds = 0.0

    def update(self, batch: Batch) -> RankReport:
        """See `Learner.update`."""
        start = time.monotonic()
        report = self._learner.update(batch)
        self.seconds = time.monotonic() - start
        return report


class Collector:
    """`trainer.ports.Logger`: measurements of all steps but the first, a warm-up."""

    def __init__(self, way: str, policy: str, engines: Engines, ranks: Ranks, scorer: RewardsThatDiffer) -> None:
        self.measurements: list[Measurement] = []
        self.learner = TimedLearner(ranks)
        self._way, self._policy, self._scorer = way, policy, scorer
        self._actors = [*engines.actors.values(), *ranks.actors.values()]
        self._start: float | None = None  # of the step that goes on

    def phase(self, text: str) -> None:
        """See `Logger.phase`."""

    def alarm(self, text: str) -> None:
        """See `Logger.alarm`."""

    def note(self, text: str) -> None:
        """See `Logger.note`."""

    def evaluation(self, on: EvaluatedOn, evaluation: Evaluation) -> None:
        """See `Logger.evaluation`."""

    def step(self, step: StepMetrics, groups: Sequence[Treated]) -> None:
        """See `Logger.step`."""
        end = time.monotonic()
        if self._start is not None:
            self.measurements.append(self._measurement(end - self._start, step, [one.scored for one in groups]))
        self._everywhere(reset_peak)
        self._start = time.monotonic()

    def is_slow(self) -> bool:
        """Whether to leave it at the measurements that there are."""
        return self._way != OURS and any(measurement.seconds > LONG for measurement in self.measurements)

    def _measurement(self, seconds: float, step: StepMetrics, scored: Sequence[ScoredGroup]) -> Measurement:
        phases = {
            "sample": step.seconds_sample,
            "score": step.seconds_score,
            "pack": step.seconds_update - self.learner.seconds,
            "update": self.learner.seconds,
            "publish": step.seconds_publish,
        }
        return Measurement(
            way=self._way,
            policy=self._policy,
            repeat=len(self.measurements),
            seconds=seconds,
            peak_mib=sum(self._everywhere(peak_mib)),
            phases=phases | {"rest": seconds - sum(phases.values())},
            details={
                "groups_trained": step.groups_trained,
                "tree_tokens": step.tree_tokens,
                "dense_tokens": step.dense_tokens,
                "random_rewards": self._scorer.replaced,
            },
            **counted([one.group for one in scored]),
        )

    def _everywhere(self, call: Callable[[object], Any]) -> list[Any]:
        """`call` in every process of the run."""
        calls = {f"process {i}": actor.__ray_call__.remote(call) for i, actor in enumerate(self._actors)}
        return list(wait(calls, "measuring memory", 60.0, "nothing").values())


def _trl(sweep: Sweep, prepared: Prepared, policy: str, size: int) -> Iterator[Measurement]:
    """Steps of TRL's trainer in a process of its own."""
    config, prompts = prepared.config, prepared.task.prompts[: sweep.prompts]
    job = trl_peer.job_of(prepared, prompts, len(prompts), size, POLICIES[policy], sweep.repeats)
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder, "steps.json")
        process = trl_peer.started(job, Path(folder), there, threads=config.training.threads)
        try:
            process.wait(config.cluster.update_timeout * (sweep.repeats + 1))
        finally:
            process.kill()
        if process.returncode:
            raise RemoteError(f"While measuring TRL: its process failed.\n{trl_peer.said(Path(folder))}")
        steps = json.loads(there.read_text())
    for repeat, step in enumerate(steps):
        yield Measurement(
            way=TRL,
            policy=policy,
            num_generations=size,
            prompts=len(prompts),
            repeat=repeat,
            phases={},
            details={"micro_batch": job.micro_batch, "random_rewards": len(prompts)},
            **step,
        )
