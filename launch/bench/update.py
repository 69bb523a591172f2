"""`cohort bench update`: token trees against one padded row per sample, on one DeepSpeed rank."""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from generation.engine import Engine, EngineSpec, SampleRequest, seed_of
from generation.groups import Completion, FinishReason, Group
from launch import hardware
from launch.bench.generation import Phase, requests
from launch.bench.measure import OURS, PLAIN, WARM_UP, Measurement, Stopwatch, counted, in_turn
from launch.bench.sweep import Sweep
from launch.engine_spec import lone_engine_spec
from launch.prepare import Prepared
from launch.task_scorer import TaskScorer
from rewards.prompts import SAME_REWARD, Verdict
from trainer.ports import Scorer
from trainer.scored import ScoredGroup
from trainer.signal.advantages import assign
from trainer.update.forest import pack
from trainer.update.rank import Rank, RankSpec
from trainer.update.report import RankReport

Key = tuple[str, int, int]
"""Policy, group size and repeat."""


def measure(sweep: Sweep, prepared: Prepared, phase: Phase) -> Iterator[Measurement]:
    """Every policy and group size in turn, on one rank in this process."""
    phase("sampling all groups")
    first: Key = (sweep.policies[0], min(sweep.sizes), WARM_UP)
    keys = [first, *((policy, size, repeat) for policy, size in sweep.cells() for repeat in range(sweep.repeats))]
    groups = _sampled(lone_engine_spec(prepared), {key: requests(sweep, prepared, *key) for key in keys})
    phase("starting the rank")

    from launch.bench.plain import DenseRank

    rank = DenseRank(_rank_spec(prepared))
    parts = Parts(rank)
    ways: dict[str, Callable[..., RankReport]] = {OURS: partial(Rank.update, rank), PLAIN: rank.update}
    scorer = RewardsThatDiffer(TaskScorer(prepared.task, 1), sweep.config.seed)

    def once(way: str, policy: str, size: int, repeat: int) -> Measurement:
        sampled = groups[policy, size, repeat]
        lessons = assign(scorer.score(sampled), sweep.config.training)
        watch = Stopwatch()
        start = time.perf_counter()
        batch = pack(lessons, 1, sweep.config.training.micro_batch_tokens)
        packed = time.perf_counter()
        parts.seconds.clear()
        report = ways[way](batch.forests[0], batch.num_samples, batch.num_tokens)
        seconds, peak = watch.read()
        return Measurement(
            way=way,
            policy=policy,
            repeat=repeat,
            seconds=seconds,
            peak_mib=peak,
            phases={
                "pack": packed - start,
                **parts.seconds,
                "rest": seconds - (packed - start) - sum(parts.seconds.values()),
            },
            details={
                "tree_tokens": batch.tree_tokens,
                "dense_tokens": batch.dense_tokens,
                "loss": report.loss,
                "grad_norm": report.grad_norm,
                "random_rewards": scorer.replaced,
            },
            **counted(sampled),
        )

    phase("warming up")
    for way in ways:
        once(way, *first)
    for policy, size in sweep.cells():
        phase(f"updating on {sweep.prompts} × {size}, {policy}")
        yield from in_turn({way: partial(once, way, policy, size) for way in ways}, sweep.repeats)


class Parts:
    """Looks on while a rank updates. seconds: of the parts of its updates, since they were cleared last; of the
    optimizer with norm and clipping."""

    def __init__(self, rank: Rank) -> None:
        import torch

        self.seconds: dict[str, float] = {}
        self._wait: Callable[[], None] = torch.cuda.synchronize if rank._spec.gpu else lambda: None
        self._watch(rank._engine, "forward", "forward")
        self._watch(rank._engine, "backward", "backward")
        self._watch(rank, "_step", "optimizer")

    def _watch(self, owner: Any, method: str, part: str) -> None:
        call = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._wait()
            start = time.perf_counter()
            result = call(*args, **kwargs)
            self._wait()
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start
            return result

        setattr(owner, method, timed)


@dataclass
class RewardsThatDiffer:
    """`trainer.ports.Scorer`: the task's rewards; random ones (with a seed) for a group all of whose rewards are the
    same, because a run would skip its update, and an update costs what it costs whatever the rewards.

    replaced: groups given random rewards by the latest call.
    """

    scorer: Scorer
    seed: int
    replaced: int = 0

    def score(self, groups: Sequence[Group]) -> tuple[ScoredGroup, ...]:
        """See `Scorer.score`."""
        scored = self.scorer.score(groups)
        same = [bool(np.ptp(group.rewards) <= SAME_REWARD) for group in scored]
        self.replaced = sum(same)
        return tuple(self._random(group) if alike else group for group, alike in zip(scored, same, strict=True))

    def _random(self, scored: ScoredGroup) -> ScoredGroup:
        group = scored.group
        completions = group.completions if len(group.completions) > 1 else _halves(group.completions[0])
        rewards = np.random.default_rng(seed_of(self.seed, group.prompt.id)).random(len(completions))
        verdicts = tuple(Verdict(float(reward), scored.verdicts[0].outcome) for reward in rewards)
        return ScoredGroup(replace(group, completions=completions), verdicts)


def _halves(completion: Completion) -> tuple[Completion, Completion]:
    """All of a group's samples as two completions of the same tokens, which share all of their tree."""
    half = completion.count // 2
    other: FinishReason = "stop" if completion.finish_reason == "length" else "length"
    return replace(completion, count=completion.count - half), replace(completion, count=half, finish_reason=other)


def _sampled(spec: EngineSpec, asked: Mapping[Key, Sequence[SampleRequest]]) -> dict[Key, tuple[Group, ...]]:
    """In a process of its own: vLLM and DeepSpeed would share threads, memory and the process group."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return dict(zip(asked, process.submit(_sample, spec, list(asked.values())).result(), strict=True))


def _sample(spec: EngineSpec, asked: Sequence[Sequence[SampleRequest]]) -> list[tuple[Group, ...]]:
    engine = Engine(spec)
    return [engine.sample(some) for some in asked]


def _rank_spec(prepared: Prepared) -> RankSpec:
    """Of a single rank in this process."""
    config, gpu = prepared.config, hardware.has_gpu()
    return RankSpec(
        rank=0,
        model=prepared.model,
        revision=prepared.revision,
        dtype=hardware.dtype(config.model.dtype, gpu),
        trust_remote_code=config.model.trust_remote_code,
        gpu=gpu,
        training=config.training,
        max_completion_length=config.sampling.max_completion_length,
        max_steps=None,
        rendezvous="alone",
        timeout=config.cluster.update_timeout,
        seed=config.seed,
        lagged=False,
        yields=False,
    )
