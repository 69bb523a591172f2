"""What one step did, as numbers; the fields are the columns of `metrics.jsonl`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rewards.prompts import Outcome
from trainer.diagnosis.alarm import Alarm
from trainer.diagnosis.causes import Diagnosis
from trainer.scored import ScoredGroup
from trainer.signal.kinds import Kind
from trainer.update.forest import Batch
from trainer.update.rank import RankReport


@dataclass(frozen=True)
class StepMetrics:
    """One step of the loop. Times are seconds; a step without an update has zeros from `loss` on.

    policy_version: that the step's groups were sampled with.
    reward_mean, reward_std: over the samples of the step, every group weighing the same.
    groups_*: how many groups were of each kind; `groups_trained` were updated on, `groups_spread` of them
        not by their rewards; `groups_rescued` were sampled hotter, or more of them, or shown an
        earlier right answer.
    completions: samples; distinct_completions: of them different from one another within a group.
    truncated, malformed, correct: share of a group's samples with that verdict, mean over groups.
    tree_tokens: tokens that the update processed; dense_tokens: that one row per sample would have had.
    kl: to the reference model, per token, 0 without one. clip_fraction: share of tokens whose gradient was clipped.
    logprob_gap: mean |trainer - sampler| log-probability per token.
    temperature_max: highest temperature of the rescue ladder in this step.
    policy_shift: nats per completion by which log-probabilities differ from those at the prompt's first visit, mean
        over the step's groups at sampling.temperature (`trainer.diagnosis.drift`); 0 where all are first visits.
    """

    step: int
    policy_version: int
    reward_mean: float
    reward_std: float
    groups_learning: int
    groups_solved: int
    groups_collapsed: int
    groups_floor: int
    groups_trained: int
    groups_spread: int
    groups_rescued: int
    prompts_solved: int
    completions: int
    distinct_completions: int
    truncated: float
    malformed: float
    correct: float
    temperature_max: float
    policy_shift: float
    tree_tokens: int
    dense_tokens: int
    loss: float
    kl: float
    clip_fraction: float
    logprob_gap: float
    grad_norm: float
    learning_rate: float
    seconds_sample: float
    seconds_score: float
    seconds_update: float
    seconds_publish: float
    seconds_step: float
    seconds_total: float


@dataclass(frozen=True)
class Shares:
    """Of a group's samples, mean over groups. distinct: how many different texts there are to a sample; the others by
    verdict."""

    distinct: float
    correct: float
    wrong: float
    malformed: float
    truncated: float


EXAMPLE_SHARES = Shares(distinct=0.016, correct=0.75, wrong=0.25, malformed=0.0, truncated=0.0)


def of_groups(scored: Sequence[ScoredGroup]) -> Shares:
    """The shares in the groups; texts are different within a group."""
    weights = _weights(scored)
    outcomes = np.concatenate([[verdict.outcome for verdict in group.verdicts] for group in scored])
    texts = [
        len({completion.text for completion in group.group.completions}) / group.group.num_generations
        for group in scored
    ]

    def share(outcome: Outcome) -> float:
        return float(weights[outcomes == outcome].sum())

    return Shares(float(np.mean(texts)), share("correct"), share("wrong"), share("malformed"), share("truncated"))


def _weights(scored: Sequence[ScoredGroup]) -> NDArray[np.float64]:
    """[completions of all groups], adding up to 1: of a group that was sampled more often each sample weighs less, or
    the prompts that need a rescue would look like all of them."""
    return np.concatenate([group.group.counts / group.group.num_generations for group in scored]) / len(scored)


NO_UPDATE = RankReport(loss=0.0, kl=0.0, clip_fraction=0.0, logprob_gap=0.0, grad_norm=0.0, learning_rate=0.0)


def of_step(
    step: int,
    scored: Sequence[ScoredGroup],
    kinds: Sequence[Kind],
    groups_trained: int,
    groups_spread: int,
    groups_rescued: int,
    batch: Batch | None,
    report: RankReport | None,
    times: Sequence[float],
    start: float,
    prompts_solved: int,
    policy_shift: float,
) -> StepMetrics:
    """A step's metrics.

    batch, report: None for a step without an update. times: seconds at the step's start and after sampling,
    scoring, updating and publishing, on the clock of `start`, the run's start.
    """
    rewards = np.concatenate([group.rewards for group in scored])
    weights = _weights(scored)
    mean = float(np.average(rewards, weights=weights))
    shares = of_groups(scored)
    phases = np.diff(times)
    report = report or NO_UPDATE
    return StepMetrics(
        step=step,
        policy_version=scored[0].group.policy_version,
        reward_mean=mean,
        reward_std=float(np.sqrt(np.average((rewards - mean) ** 2, weights=weights))),
        groups_learning=kinds.count("learning"),
        groups_solved=kinds.count("solved"),
        groups_collapsed=kinds.count("collapsed"),
        groups_floor=kinds.count("floor"),
        groups_trained=groups_trained,
        groups_spread=groups_spread,
        groups_rescued=groups_rescued,
        prompts_solved=prompts_solved,
        completions=sum(group.group.num_generations for group in scored),
        distinct_completions=len(rewards),
        truncated=shares.truncated,
        malformed=shares.malformed,
        correct=shares.correct,
        temperature_max=max(group.group.temperature for group in scored),
        policy_shift=policy_shift,
        tree_tokens=batch.tree_tokens if batch else 0,
        dense_tokens=batch.dense_tokens if batch else 0,
        loss=report.loss,
        kl=report.kl,
        clip_fraction=report.clip_fraction,
        logprob_gap=report.logprob_gap,
        grad_norm=report.grad_norm,
        learning_rate=report.learning_rate,
        seconds_sample=float(phases[0]),
        seconds_score=float(phases[1]),
        seconds_update=float(phases[2]),
        seconds_publish=float(phases[3]),
        seconds_step=float(times[-1] - times[0]),
        seconds_total=float(times[-1] - start),
    )


@dataclass(frozen=True)
class PromptResult:
    """One prompt in an evaluation.

    question: the last user message. greedy: the text at temperature 0, and its reward.
    sampled_reward: mean at the training temperature. solved: the greedy answer and every sample are best.
    """

    prompt_id: str
    question: str
    greedy: str
    greedy_reward: float
    sampled_reward: float
    solved: bool


@dataclass(frozen=True)
class Evaluation:
    """The policy on the data set.

    reward_sampled: mean over prompts at the training temperature.
    accuracy_greedy: share of prompts whose greedy answer has the best reward.
    """

    policy_version: int
    prompts: tuple[PromptResult, ...]
    reward_sampled: float
    accuracy_greedy: float

    @property
    def prompts_solved(self) -> int:
        return sum(prompt.solved for prompt in self.prompts)


@dataclass(frozen=True)
class Result:
    """How a run ended.

    reached: None when no target was set. stopped: why it ended, one sentence.
    gave_up: it was stopped because it could not learn. verdict: what came of it, one sentence.
    diagnosis: why it could not learn, whether or not that stopped it; its verdict is `verdict` then.
    alarms: of each name the first.
    """

    reached: bool | None
    stopped: str
    gave_up: bool
    verdict: str
    diagnosis: Diagnosis | None
    steps: int
    seconds: float
    policy_version: int
    before: Evaluation
    after: Evaluation
    alarms: tuple[Alarm, ...]
