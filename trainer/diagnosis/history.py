"""History: what a run has seen so far, as the numbers that a diagnosis is made of.

It takes the same time and memory after twenty thousand steps as after twenty: columns with a number for every prompt,
the rollouts of the last steps, and sums or extremes of all others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from generation.groups import Group
from rewards.prompts import SAME_REWARD
from trainer.columns import Columns
from trainer.scored import EXAMPLE_SCORED_GROUP, ScoredGroup, normalized
from trainer.signal.kinds import COLLAPSED_SHARE, Kind

FEW_STEPS = 3
"""The first and the last steps (and updates) that are compared with each other."""

RECENT_STEPS, RECENT_ROLLOUTS = 100, 8192
"""The rollouts of so many steps are kept, and those before up to so many rollouts."""

MOST_ANSWERS = 256
"""Different answers that are counted."""

TEXTS, TEXT = 64, 41
"""Prompts whose text is kept as an example, and characters of it: one more than are told."""


@dataclass(frozen=True)
class Seen:
    """One rollout, sampled and treated.

    prompt: its number. learned: the group was trained on by its rewards.
    reward_std: population standard deviation over samples. reward_low, reward_high: of any completion.
    samples: in the group; correct, malformed, truncated: how many of them were.
    answers: different finished texts, `normalized`. text: the most frequent one, of this share of samples.
    own_share: at most this share would have that text at temperature 1.0 (see `own_share`); 1 where the group is not
        (nearly) of one text, and nobody asks.
    drift: nats per completion since the prompt's first rollout; None on that, and above `sampling.temperature`.
    """

    prompt: int
    kind: Kind
    learned: bool
    temperature: float
    reward_mean: float
    reward_std: float
    reward_low: float
    reward_high: float
    samples: int
    correct: int
    malformed: int
    truncated: int
    answers: frozenset[str]
    text: str
    text_share: float
    own_share: float
    drift: float | None


@dataclass(frozen=True)
class Step:
    """One step. reward_start, reward_now: mean over the prompts known so far, before training and as last sampled at
    `sampling.temperature`. grad_norm, kl: of the update; 0 without one. seconds: of the step; seconds_total: of the
    run at its end. exhausted: nothing is left to try for any unsolved prompt (`Curriculum.exhausted`)."""

    groups: tuple[Seen, ...]
    updated: bool
    reward_start: float
    reward_now: float
    grad_norm: float
    kl: float
    seconds: float
    seconds_total: float
    exhausted: bool


@dataclass(frozen=True)
class Latest(Columns):
    """Of every prompt's last group at `sampling.temperature`, [prompts] each; see `Seen`. 0 where there is none.

    floor: its kind was that.
    """

    floor: NDArray[np.bool_]
    samples: NDArray[np.int32]
    correct: NDArray[np.int32]
    malformed: NDArray[np.int32]
    truncated: NDArray[np.int32]
    reward_low: NDArray[np.float32]
    reward_high: NDArray[np.float32]
    text_share: NDArray[np.float32]
    own_share: NDArray[np.float32]


@dataclass(frozen=True)
class Tally(Columns):
    """Of every prompt, [prompts] each.

    known: it was sampled. solved: its last group was, at any temperature. rollouts: at `sampling.temperature`.
    samples_before, correct_before: samples at `sampling.temperature` up to the last step in which a group learned,
        and right ones; samples_since, correct_since: after it.
    hottest: the highest temperature since then.
    """

    known: NDArray[np.bool_]
    solved: NDArray[np.bool_]
    rollouts: NDArray[np.int32]
    samples_before: NDArray[np.int64]
    correct_before: NDArray[np.int64]
    samples_since: NDArray[np.int64]
    correct_since: NDArray[np.int64]
    hottest: NDArray[np.float64]


@dataclass(frozen=True)
class Recent(Columns):
    """The rollouts of the last steps, oldest first, [rollouts] each.

    step: from 1. prompt: number. base: at `sampling.temperature`. reward: mean. variance: of that mean.
    samples: in the group. correct: right ones.
    """

    step: NDArray[np.int32]
    prompt: NDArray[np.int32]
    base: NDArray[np.bool_]
    reward: NDArray[np.float64]
    variance: NDArray[np.float64]
    samples: NDArray[np.int32]
    correct: NDArray[np.int32]

    def since(self, step: int) -> "Recent":
        """The rollouts of the steps after `step`."""
        return self.rows(int(np.searchsorted(self.step, step, side="right")))


@dataclass(frozen=True)
class StepSums:
    """Of one step. spoilt: of `samples` at `sampling.temperature`, those cut off or malformed. drift: sum over
    `drifts` groups. risen: mean reward, less that before training."""

    samples: int
    spoilt: int
    drift: float
    drifts: int
    risen: float


@dataclass(frozen=True)
class History:
    """A run so far.

    temperature: `sampling.temperature`. reached: nothing was left to learn before the first update.
    steps, updates: how many. silent_steps: since the last one in which a group learned.
    exhausted, seconds: see `Step.exhausted`, `Step.seconds_total`. fastest: seconds of the fastest step.
    reward_start, reward_now: of the last step. peak: the most that a step's reward was above that at the start.
    reward_low, reward_high: of any completion, where there was one.
    rewards_differed: in some group. answers: different ones, up to `MOST_ANSWERS`, while they never did.
    largest_drift: of any group.
    first, last: the first and the last `FEW_STEPS` steps. first_norms, last_norms, last_kls: of so many updates.
    texts: prompt's number -> most frequent text of its last group that was not solved, of the last `TEXTS` prompts.
    """

    temperature: float
    latest: Latest
    tally: Tally
    recent: Recent
    reached: bool = False
    steps: int = 0
    updates: int = 0
    silent_steps: int = 0
    exhausted: bool = False
    seconds: float = 0.0
    fastest: float = float("inf")
    reward_start: float = 0.0
    reward_now: float = 0.0
    peak: float = float("-inf")
    reward_low: float = float("inf")
    reward_high: float = float("-inf")
    rewards_differed: bool = False
    answers: frozenset[str] = frozenset()
    largest_drift: float = 0.0
    first: tuple[StepSums, ...] = ()
    last: tuple[StepSums, ...] = ()
    first_norms: tuple[float, ...] = ()
    last_norms: tuple[float, ...] = ()
    last_kls: tuple[float, ...] = ()
    texts: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def start(cls, prompts: int, temperature: float) -> "History":
        """Before the first step. prompts: in the data set."""
        return cls(temperature, Latest.zeros(prompts), Tally.zeros(prompts), Recent.zeros(0))

    @property
    def prompts(self) -> int:
        """In the data set."""
        return len(self.tally.known)

    @property
    def unsolved(self) -> NDArray[np.int64]:
        """Numbers of the prompts that were sampled and are not solved."""
        return np.flatnonzero(self.tally.known & ~self.tally.solved)

    def after(self, step: Step) -> "History":
        """With one step more."""
        groups, number = step.groups, self.steps + 1
        cold = [seen for seen in groups if seen.temperature == self.temperature]
        learned = any(seen.learned for seen in groups)
        differed = self.rewards_differed or any(_differ(seen) for seen in groups)
        drifts = [seen.drift for seen in groups if seen.drift is not None]
        sums = StepSums(
            samples=sum(seen.samples for seen in cold),
            spoilt=sum(seen.malformed + seen.truncated for seen in cold),
            drift=sum(drifts),
            drifts=len(drifts),
            risen=step.reward_now - step.reward_start,
        )
        norms, kls = ((step.grad_norm,), (step.kl,)) if step.updated else ((), ())
        return replace(
            self,
            latest=_latest(self.latest, cold),
            tally=_tally(self.tally, groups, cold, learned),
            recent=_recent(self.recent, number, groups, self.temperature),
            steps=number,
            updates=self.updates + step.updated,
            silent_steps=0 if learned else self.silent_steps + 1,
            exhausted=step.exhausted,
            seconds=step.seconds_total,
            fastest=min(self.fastest, step.seconds),
            reward_start=step.reward_start,
            reward_now=step.reward_now,
            peak=max(self.peak, sums.risen),
            reward_low=min(self.reward_low, *(seen.reward_low for seen in groups)),
            reward_high=max(self.reward_high, *(seen.reward_high for seen in groups)),
            rewards_differed=differed,
            answers=frozenset() if differed else _answers(self.answers, cold),
            largest_drift=max(self.largest_drift, *drifts, 0.0),
            first=(*self.first, sums)[:FEW_STEPS],
            last=(*self.last, sums)[-FEW_STEPS:],
            first_norms=(*self.first_norms, *norms)[:FEW_STEPS],
            last_norms=(*self.last_norms, *norms)[-FEW_STEPS:],
            last_kls=(*self.last_kls, *kls)[-FEW_STEPS:],
            texts=_texts(self.texts, cold),
        )


def _latest(latest: Latest, cold: Sequence[Seen]) -> Latest:
    """With the groups that were sampled at `sampling.temperature`."""
    return latest.with_rows(
        [seen.prompt for seen in cold],
        floor=[seen.kind == "floor" for seen in cold],
        samples=[seen.samples for seen in cold],
        correct=[seen.correct for seen in cold],
        malformed=[seen.malformed for seen in cold],
        truncated=[seen.truncated for seen in cold],
        reward_low=[seen.reward_low for seen in cold],
        reward_high=[seen.reward_high for seen in cold],
        text_share=[seen.text_share for seen in cold],
        own_share=[seen.own_share for seen in cold],
    )


def _tally(tally: Tally, groups: Sequence[Seen], cold: Sequence[Seen], learned: bool) -> Tally:
    numbers, at_base = [seen.prompt for seen in groups], [seen.prompt for seen in cold]
    hottest = tally.hottest.copy()
    np.maximum.at(hottest, numbers, [seen.temperature for seen in groups])
    counted = replace(
        tally.with_rows(numbers, known=True, solved=[seen.kind == "solved" for seen in groups]).with_rows(
            at_base,
            rollouts=tally.rollouts[at_base] + 1,
            samples_since=tally.samples_since[at_base] + [seen.samples for seen in cold],
            correct_since=tally.correct_since[at_base] + [seen.correct for seen in cold],
        ),
        hottest=hottest,
    )
    if not learned:
        return counted
    return replace(
        counted,
        samples_before=tally.samples_before + counted.samples_since,
        correct_before=tally.correct_before + counted.correct_since,
        samples_since=np.zeros_like(tally.samples_since),
        correct_since=np.zeros_like(tally.correct_since),
        hottest=np.zeros_like(hottest),
    )


def _recent(recent: Recent, step: int, groups: Sequence[Seen], temperature: float) -> Recent:
    """With the step's rollouts, and without the steps that are too old by then."""
    surplus = len(recent.step) + len(groups) - RECENT_ROLLOUTS
    if surplus > 0 and len(recent.step):
        last_surplus = int(recent.step[min(surplus, len(recent.step)) - 1])
        recent = recent.since(min(last_surplus, step - RECENT_STEPS))
    return recent.extended(
        step=[step] * len(groups),
        prompt=[seen.prompt for seen in groups],
        base=[seen.temperature == temperature for seen in groups],
        reward=[seen.reward_mean for seen in groups],
        variance=[seen.reward_std**2 / seen.samples for seen in groups],
        samples=[seen.samples for seen in groups],
        correct=[seen.correct for seen in groups],
    )


def _answers(answers: frozenset[str], cold: Sequence[Seen]) -> frozenset[str]:
    if len(answers) >= MOST_ANSWERS:
        return answers
    found = answers.union(*(seen.answers for seen in cold if seen.kind != "solved"))
    return frozenset(sorted(found)[:MOST_ANSWERS])


def _texts(texts: Mapping[int, str], cold: Sequence[Seen]) -> Mapping[int, str]:
    new = {seen.prompt: seen.text[:TEXT] for seen in cold if seen.kind != "solved"}
    kept = {**{number: text for number, text in texts.items() if number not in new}, **new}
    return dict(list(kept.items())[-TEXTS:])


def _differ(seen: Seen) -> bool:
    return seen.reward_high - seen.reward_low > SAME_REWARD


def of_group(
    number: int, scored: ScoredGroup, kind: Kind, learned: bool, drift: float | None, with_answers: bool = True
) -> Seen:
    """What is remembered of a group. number: the prompt's. with_answers: whether its different answers are, too."""
    group, samples = scored.group, scored.samples
    texts: dict[str, int] = {}
    for completion in group.completions:
        texts[completion.text] = texts.get(completion.text, 0) + completion.count
    text = max(texts, key=texts.__getitem__)
    text_share = texts[text] / group.num_generations
    return Seen(
        prompt=number,
        kind=kind,
        learned=learned,
        temperature=group.temperature,
        reward_mean=scored.reward_mean,
        reward_std=scored.reward_std,
        reward_low=scored.reward_low,
        reward_high=scored.reward_high,
        samples=group.num_generations,
        correct=samples["correct"],
        malformed=samples["malformed"],
        truncated=samples["truncated"],
        answers=frozenset(normalized(c.text) for c in group.completions if c.finish_reason != "length")
        if with_answers
        else frozenset(),
        text=text,
        text_share=text_share,
        own_share=_own_share_of(group, text) if text_share >= COLLAPSED_SHARE else 1.0,
        drift=drift,
    )


def _own_share_of(group: Group, text: str) -> float:
    """Of the group's most frequent completion with that text."""
    likeliest = next(completion for completion in group.completions if completion.text == text)
    return own_share(likeliest.logprobs, group.temperature)


def own_share(logprobs: Sequence[float] | NDArray[np.float32], temperature: float) -> float:
    """At most the probability at temperature 1.0 of a completion that was sampled at `temperature` (below 1).

    logprobs: [length] at that temperature. A token's odds against a single rival are raised to the power of the
    temperature; against several rivals they would fall further. A probability that float32 cannot tell from 1 counts
    as the largest one below it, so a policy that is sure at 1.0 too can be taken for one that is not.
    """
    surprise = np.maximum(-np.asarray(logprobs, dtype=np.float64), np.finfo(np.float32).epsneg)
    odds = (1 / np.expm1(surprise)) ** temperature
    return float(np.prod(odds / (1 + odds)))


EXAMPLE_SEEN = of_group(0, EXAMPLE_SCORED_GROUP, "learning", learned=True, drift=0.4)
EXAMPLE_STEP = Step(
    groups=(EXAMPLE_SEEN,),
    updated=True,
    reward_start=-0.2,
    reward_now=0.625,
    grad_norm=1.5,
    kl=0.0,
    seconds=4.2,
    seconds_total=4.2,
    exhausted=False,
)
