"""The metrics of a step; the fields are the columns of `metrics.jsonl`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.schema import Config
from rewards.prompts import Outcome
from trainer.happened import Happened, Times
from trainer.metric import Panel, declared, metric
from trainer.scored import CODES, ScoredGroup
from trainer.signal.kinds import Kind
from trainer.signal.treatment import Treated
from trainer.update.report import NO_UPDATE, RankReport


@dataclass(frozen=True)
class GroupMetrics:
    """Of the step's groups, every one weighing the same, however many samples it has."""

    step: int = metric(
        "Reward",
        "number of the step, from 1",
        of=lambda m: m.happened.step,
    )
    policy_version: int = metric(
        "Reward",
        "version of the weights that the step's groups were sampled with; grows by 1 with every update",
        healthy="`step` − 1, less the steps without an update, and one less with `sampling.ahead`",
        otherwise="if it stands still, no group is trained on: see `groups_trained`",
        of=lambda m: m.scored[0].group.policy_version,
    )
    policy_lag: int = metric(
        "Policy and update",
        "versions between the policy that sampled the step's groups and the one that its update began from, the most "
        "of any group",
        healthy="0; with `sampling.ahead` 1, but 0 in a run's first step and after steps without an update",
        of=lambda m: m.happened.policy_lag,
    )
    reward_mean: float = metric(
        "Reward",
        "mean reward of the step: mean over groups of the mean over their samples",
        healthy="rises towards `task.best_reward`. Measured: A 0.25 → 1.00, B 0.10 → 1.00. It is of the prompts "
        "that the step sampled, unsolved ones first, so it may dip without anything being wrong",
        otherwise="flat: look at the kinds of groups. Falls and stays down: lower `training.learning_rate`",
        of=lambda m: m.reward_mean,
        panel=Panel("Reward", "mean reward", from_zero=False),
    )
    reward_std: float = metric(
        "Reward",
        "population standard deviation of the rewards over the samples of the step, every group weighing the same",
        healthy="above 0 while there is something to learn; 0 when all is solved. Measured: A 0.76 → 0.06",
        otherwise='0 with a low mean: every completion earns the same, see "Kinds of groups"',
        of=lambda m: m.reward_std,
    )
    groups_learning: int = metric(
        "Kinds of groups",
        "rewards differ",
        healthy="most groups at first, fewer as prompts are solved",
        otherwise="0 before the target is reached: nothing is learned; the next rows say why",
        of=lambda m: m.kinds.count("learning"),
    )
    groups_solved: int = metric(
        "Kinds of groups",
        "one reward, the task's best",
        healthy="grows to all",
        otherwise="0 throughout is no fault by itself: a group is solved only if all its samples are right",
        of=lambda m: m.kinds.count("solved"),
    )
    groups_collapsed: int = metric(
        "Kinds of groups",
        "one reward below the best, and at least 90 % of the samples one text",
        healthy="0, or some for a few steps, until their rescue works",
        otherwise="stays: leave `signal.rescue` on, raise `sampling.temperature` if it is below 1, lower "
        "`training.learning_rate`",
        of=lambda m: m.kinds.count("collapsed"),
    )
    groups_floor: int = metric(
        "Kinds of groups",
        "one reward below the best, many texts",
        healthy="0, or falling",
        otherwise="stays: if `malformed` is high the format is not met (examples: `task.few_shot`; "
        "`task.system_prompt`), if `truncated` is high answers are cut off "
        "(`sampling.max_completion_length`), else no sample is right (larger "
        "`sampling.num_generations`, easier prompts)",
        of=lambda m: m.kinds.count("floor"),
    )
    groups_trained: int = metric(
        "Kinds of groups",
        "groups that the step's update was made from",
        healthy="above 0 as long as prompts are unsolved. Not always `groups_learning`: groups without a right "
        "answer are treated by `signal.without_best`",
        otherwise="0 for several steps: see the rows above; `signal.without_best`",
        of=lambda m: len(m.happened.lessons),
    )
    groups_spread: int = metric(
        "Kinds of groups",
        "of those trained, the groups without a right answer, led to more and closer answers instead of "
        'to their least wrong one ([design.md](design.md), "Signal")',
        healthy="falls to 0 as prompts find right answers",
        otherwise="stays for tens of steps: right answers are out of reach, see `groups_rescued`",
        of=lambda m: sum(one.treatment == "spread" for one in m.happened.treated),
    )
    groups_rescued: int = metric(
        "Kinds of groups",
        "groups sampled hotter than `sampling.temperature`, or more of them, or shown an earlier right "
        "answer, because right answers did not come",
        healthy="0, or a few late in training",
        otherwise="rises: the policy has become sure too early: larger `sampling.num_generations`, lower "
        "`training.learning_rate`",
        of=lambda m: sum(map(m.is_rescued, m.happened.treated)),
    )
    prompts_solved: int = metric(
        "Reward",
        "prompts whose last group was solved",
        healthy="rises to the number of prompts; goes back now and then when a replay finds one forgotten",
        otherwise="falls steadily: raise `signal.replay`, lower `training.learning_rate`",
        of=lambda m: m.prompts_solved,
        panel=Panel("Reward", "prompts solved", "d", steps=True),
    )
    completions: int = metric(
        "Completions",
        "samples of the step",
        healthy="`sampling.prompts_per_step` × `sampling.num_generations`; more where prompts are rescued, fewer "
        "where completions hardly repeat and fewer say enough (`training.max_distinct_completions`)",
        of=lambda m: sum(group.group.num_generations for group in m.scored),
    )
    distinct_completions: int = metric(
        "Completions",
        "of them different from one another within a group, token by token; what generation and update are paid for",
        healthy="falls as the policy grows sure. Share of the samples, measured: A 4.2 % → 1.1 %, B 8.1 % → 1.0 "
        "%. Depends on the length of the answers: long free text hardly repeats",
        otherwise="one for each group with a low reward: collapsed",
        of=lambda m: len(m.rewards),
    )
    truncated: float = metric(
        "Completions",
        "share cut off at `sampling.max_completion_length`",
        healthy="near 0. Measured: A at most 0.009, B 0.12 in the first step, then at most 0.013",
        otherwise="raise `sampling.max_completion_length`; see also `training.mask_truncated_completions`",
        of=lambda m: m.shares.truncated,
    )
    malformed: float = metric(
        "Completions",
        "share that is no answer in the task's format; always 0 with a reward function of your own",
        healthy="falls to 0 within some steps. Measured: A at most 0.010, B at most 0.017",
        otherwise="high and not falling: show examples (`task.few_shot`), say the format in the prompt or "
        "`task.system_prompt`",
        of=lambda m: m.shares.malformed,
    )
    correct: float = metric(
        "Completions",
        "share of a group's samples judged `correct`, 0 to 1, mean over groups",
        healthy="rises. Measured: A 0.51 → 1.00. For a reward function of your own, the share that earned "
        "`task.best_reward`",
        otherwise="0 in the first steps: `sampling.num_generations` is too small for this model and task, or the "
        "task is out of reach",
        of=lambda m: m.shares.correct,
    )
    completion_length: float = metric(
        "Completions",
        "tokens of a completion, end of turn included: mean over samples",
        healthy="what the answers need; of a task that rewards reasoning it may grow",
        otherwise="rises to `sampling.max_completion_length` without a rise of the reward: see `truncated`, "
        "`training.loss_type: dr_grpo` and `training.soft_punish_cache`",
        of=lambda m: float((m.lengths * m.weights).sum()),
        panel=Panel("Completions", "mean tokens of a completion", ".1f"),
    )
    completion_length_max: int = metric(
        "Completions",
        "tokens of the longest one",
        healthy="below `sampling.max_completion_length`",
        otherwise="at it: see `truncated`",
        of=lambda m: int(m.lengths.max()),
    )
    completion_length_correct: float = metric(
        "Completions",
        "`completion_length` of those judged `correct`; null where none was",
        of=lambda m: m.length(m.correct),
    )
    completion_length_wrong: float = metric(
        "Completions",
        "`completion_length` of the others; null where there are none",
        healthy="near that of the right ones",
        otherwise="far above it: what is wrong rambles; far below it: short answers are guesses",
        of=lambda m: m.length(~m.correct),
    )
    entropy: float = metric(
        "Policy and update",
        "of the policy at a completion's tokens, at the temperature they were sampled at, in nats per token: minus "
        "the mean log-probability of what was drawn, whose expectation it is (with `sampling.top_p` and the like, a "
        "little less)",
        healthy="falls as the policy grows sure, and slower than the reward rises",
        otherwise="near 0 with a low reward: it is sure of wrong answers, see `groups_collapsed`; rises: the "
        "learning rate is too high",
        of=lambda m: m.entropy,
        panel=Panel("Policy", "entropy, nats per token", ".3g"),
    )
    temperature_max: float = metric(
        "Rescue",
        "highest sampling temperature of the step's groups",
        healthy="`sampling.temperature`; above it while a collapsed or narrow prompt is rescued "
        '([design.md](design.md), "Signal")',
        otherwise="at `signal.rescue_max_temperature` for long: the rescue finds no right answer",
        of=lambda m: max(group.group.temperature for group in m.scored),
        panel=Panel("Temperature ladder", "highest temperature", ".2f", steps=True),
    )
    policy_shift: float = metric(
        "Policy and update",
        "log-probability drift, how far the policy has moved: mean change of a completion's log-probability "
        "since its prompt's first rollout, in nats, over the step's groups at `sampling.temperature`; 0 where "
        "all are first rollouts",
        healthy="grows while there is something to learn. No group above 0.02 after ten updates with a flat "
        "reward is `learning_rate_too_low`; above 10 with a falling one `learning_rate_too_high`",
        otherwise="raise `training.learning_rate`, or lower it",
        of=lambda m: m.drift,
        panel=Panel("Policy", "log-probability drift since a prompt's first rollout, nats per completion", ".3g"),
    )
    tree_tokens: int = metric(
        "Policy and update",
        "tokens that the update computed: prompts and distinct completion tokens, once each",
        healthy="falls as the policy grows sure. Measured: A 640 → 159",
        otherwise="0: no update in this step",
        of=lambda m: m.happened.tree_tokens,
    )
    dense_tokens: int = metric(
        "Policy and update",
        "tokens that one row for each sample would have had",
        healthy="`dense_tokens` / `tree_tokens` is what token trees save. Measured: A 206 to 598 times, B 117 to 266",
        otherwise="depends on the length of prompts and answers; see [performance.md](performance.md)",
        of=lambda m: m.happened.dense_tokens,
    )


@dataclass(frozen=True)
class TimeMetrics:
    """On the run's clock."""

    seconds_sample: float = metric(
        "Time",
        "all groups of the step, on all engines; with `sampling.ahead`, what is left of those of the next step when "
        "the update is done",
        healthy="falls as completions become fewer; with `sampling.ahead` near 0 but for the first step",
        otherwise="more `engine.engines`; shorter completions; [performance.md](performance.md)",
        of=lambda m: (m.times.sampled - m.times.synced) + (m.times.collected - m.times.updated),
    )
    seconds_score: float = metric(
        "Time",
        "verdicts that are still to come when all groups are sampled",
        healthy="far below the others. Measured: below 0.004",
        otherwise="your reward function is slow: more `task.reward_workers`",
        of=lambda m: m.times.scored - m.times.sampled,
    )
    seconds_update: float = metric(
        "Time",
        "packing, forward, backward and optimizer",
        healthy="falls with `tree_tokens`",
        otherwise="more `training.ranks`; larger `training.micro_batch_tokens` if memory allows",
        of=lambda m: m.times.updated - m.times.scored,
    )
    seconds_publish: float = metric(
        "Time",
        "the latest weights to all engines, with checksums, before they sample",
        healthy="the same after every step with an update: it depends on the model's size",
        otherwise="other programs on the machine; see `cluster.publish_timeout`",
        of=lambda m: m.times.synced - m.times.start,
    )
    seconds_step: float = metric(
        "Time",
        "the step",
        otherwise="first steps cost most: more distinct completions, and engines compile at first use",
        of=lambda m: m.times.collected - m.times.start,
    )
    seconds_total: float = metric(
        "Time",
        "since training began, evaluations included",
        of=lambda m: m.times.collected,
    )


@dataclass(frozen=True)
class StepMetrics(TimeMetrics, RankReport, GroupMetrics):
    """One step. Without an update it has zeros from `loss` to `learning_rate`.

    of_functions: what reward functions gave and logged, by `rewards/NAME` and `logged/NAME`.
    """

    of_functions: Mapping[str, float] = field(default_factory=dict)

    @property
    def named(self) -> dict[str, float]:
        """All of them by name."""
        values = {name: getattr(self, name) for name, _ in declared(StepMetrics)}
        return values | dict(self.of_functions)


def measure(config: Config, happened: Happened, prompts_solved: int, reward_names: Sequence[str] = ()) -> StepMetrics:
    """The metrics of a step. prompts_solved: after it. reward_names: of the functions whose sum the reward is."""
    measured = Measured(config, happened, prompts_solved)
    report = happened.report or NO_UPDATE
    values: dict[str, Any] = {
        name: each.of(measured) if each.of else getattr(report, name) for name, each in declared(StepMetrics)
    }
    return StepMetrics(**values, of_functions=of_functions(happened.scored, reward_names))


def of_functions(scored: Sequence[ScoredGroup], names: Sequence[str]) -> dict[str, float]:
    """Means over groups of what functions gave, of the samples that they judged, and of what they logged."""
    values: dict[str, list[float]] = {}
    for group in scored:
        counts = group.group.counts
        for place, name in enumerate(names):
            parts = np.array([verdict.parts[place] for verdict in group.verdicts])
            judged = ~np.isnan(parts)
            if judged.any():
                values.setdefault(f"rewards/{name}", []).append(
                    float(np.average(parts[judged], weights=counts[judged]))
                )
        for name, value in group.verdicts[0].metrics.items():
            values.setdefault(f"logged/{name}", []).append(value)
    return {name: sum(given) / len(given) for name, given in values.items()}


@dataclass(frozen=True)
class Measured:
    """What metrics are made of. prompts_solved: after the step."""

    config: Config
    happened: Happened
    prompts_solved: int

    @property
    def times(self) -> Times:
        return self.happened.times

    @cached_property
    def scored(self) -> tuple[ScoredGroup, ...]:
        """Punished where they are overlong."""
        return tuple(one.scored for one in self.happened.treated)

    @cached_property
    def kinds(self) -> list[Kind]:
        return [one.kind for one in self.happened.treated]

    @cached_property
    def rewards(self) -> NDArray[np.float64]:
        """[completions of all groups]"""
        return np.concatenate([group.rewards for group in self.scored])

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """[completions of all groups], see `_weights`."""
        return _weights(self.scored)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """[completions of all groups] tokens."""
        return np.concatenate([group.group.lengths for group in self.scored])

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """[completions of all groups] which were judged `correct`."""
        correct: NDArray[np.bool_] = np.concatenate([group.outcomes for group in self.scored]) == CODES["correct"]
        return correct

    def length(self, chosen: NDArray[np.bool_]) -> float:
        """Mean tokens of the chosen completions; nan of none."""
        return float(np.average(self.lengths[chosen], weights=self.weights[chosen])) if chosen.any() else nan

    @property
    def entropy(self) -> float:
        """Nats per token."""
        drawn = np.concatenate([one.logprobs for group in self.scored for one in group.group.completions])
        sums = np.add.reduceat(drawn.astype(np.float64), np.cumsum(self.lengths) - self.lengths)
        return float(-(sums * self.weights).sum() / (self.lengths * self.weights).sum())

    @cached_property
    def reward_mean(self) -> float:
        return float(np.average(self.rewards, weights=self.weights))

    @property
    def reward_std(self) -> float:
        """Of the population."""
        return float(np.sqrt(np.average((self.rewards - self.reward_mean) ** 2, weights=self.weights)))

    @cached_property
    def shares(self) -> "Shares":
        return of_groups(self.scored, self.weights)

    @property
    def drift(self) -> float:
        """Nats per completion, mean over the groups that have been compared with an earlier rollout."""
        known = [drift for drift in self.happened.drifts if drift is not None]
        return sum(known) / len(known) if known else 0.0

    def is_rescued(self, treated: Treated) -> bool:
        """Whether the group was sampled hotter or more of it, or shown an earlier right answer."""
        group, usual = treated.scored.group, self.config.sampling
        hotter, more = group.temperature > usual.temperature, group.num_generations > usual.num_generations
        return treated.treatment == "replay" or hotter or more


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


def of_groups(scored: Sequence[ScoredGroup], weights: NDArray[np.float64] | None = None) -> Shares:
    """The shares in the groups; texts are different within a group. weights: `_weights`, if they are known."""
    weights = _weights(scored) if weights is None else weights
    outcomes = np.concatenate([group.outcomes for group in scored])
    texts = [
        len({completion.text for completion in group.group.completions}) / group.group.num_generations
        for group in scored
    ]

    def share(outcome: Outcome) -> float:
        return float(weights[outcomes == CODES[outcome]].sum())

    return Shares(float(np.mean(texts)), share("correct"), share("wrong"), share("malformed"), share("truncated"))


def _weights(scored: Sequence[ScoredGroup]) -> NDArray[np.float64]:
    """[completions of all groups], adding up to 1: of a group that was sampled more often each sample weighs less, or
    the prompts that need a rescue would look like all of them."""
    counts = np.concatenate([group.group.counts for group in scored])
    sizes = np.repeat([group.group.num_generations for group in scored], [len(group.verdicts) for group in scored])
    weights: NDArray[np.float64] = counts / sizes / len(scored)
    return weights
