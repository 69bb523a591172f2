"""History: what a run has seen so far, as the numbers that a diagnosis is made of."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from configs.schema import Config
from rewards.prompts import Outcome
from trainer.scored import EXAMPLE_SCORED_GROUP, ScoredGroup
from trainer.signal.kinds import Kind


@dataclass(frozen=True)
class Seen:
    """One visit to a prompt.

    learned: the group was trained on by its rewards.
    reward_std: population standard deviation over samples. reward_low, reward_high: of any completion.
    samples: in the group; correct, malformed, truncated: how many of them were.
    answers: different finished texts, by letters and digits. text: the most frequent one, of this share of samples.
    own_share: at most this share would have that text at temperature 1.0 (see `own_share`).
    shift: nats per completion since the prompt's first visit; None on that, and above `sampling.temperature`.
    """

    prompt_id: str
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
    shift: float | None


@dataclass(frozen=True)
class Step:
    """One step. reward_start, reward_now: mean over the prompts known so far, before training and as last sampled at
    `sampling.temperature`. grad_norm, kl: of the update; 0 without one. seconds: of the step."""

    groups: tuple[Seen, ...]
    updated: bool
    reward_start: float
    reward_now: float
    grad_norm: float
    kl: float
    seconds: float


@dataclass(frozen=True)
class History:
    """A run so far.

    best_reward: the task's. prompts: in the data set. reached: nothing was left to learn before the first update.
    exhausted: nothing is left to try for any unsolved prompt (`Curriculum.exhausted`). seconds: since the start.
    steps: without the visits' answers, which would be most of a long run's memory.
    latest, latest_at_base: prompt id -> last visit, at any temperature and at `sampling.temperature`.
    visits: prompt id -> visits at `sampling.temperature`.
    """

    config: Config
    best_reward: float
    prompts: int
    reached: bool = False
    steps: tuple[Step, ...] = ()
    exhausted: bool = False
    seconds: float = 0.0
    latest: Mapping[str, Seen] = field(default_factory=dict)
    latest_at_base: Mapping[str, Seen] = field(default_factory=dict)
    visits: Mapping[str, int] = field(default_factory=dict)

    def record(self, step: Step, exhausted: bool, seconds: float) -> "History":
        """With one step more. seconds: of the run, at its end."""
        past = replace(step, groups=tuple(replace(seen, answers=frozenset()) for seen in step.groups))
        cold = {seen.prompt_id: seen for seen in step.groups if seen.temperature == self.config.sampling.temperature}
        return replace(
            self,
            steps=(*self.steps, past),
            exhausted=exhausted,
            seconds=seconds,
            latest={**self.latest, **{seen.prompt_id: seen for seen in step.groups}},
            latest_at_base={**self.latest_at_base, **cold},
            visits={**self.visits, **{name: self.visits.get(name, 0) + 1 for name in cold}},
        )

    @property
    def silent_steps(self) -> int:
        """Steps since the last one in which a group learned."""
        for back, step in enumerate(reversed(self.steps)):
            if any(seen.learned for seen in step.groups):
                return back
        return len(self.steps)

    @property
    def unsolved(self) -> tuple[Seen, ...]:
        """The last visit at `sampling.temperature` of every prompt that was visited and is not solved."""
        return tuple(
            self.latest_at_base.get(name, seen) for name, seen in self.latest.items() if seen.kind != "solved"
        )

    @property
    def hottest(self) -> float:
        """The highest temperature at which an unsolved prompt was sampled since a group last learned."""
        since = self.steps[len(self.steps) - max(self.silent_steps, 1) :]
        names = {seen.prompt_id for seen in self.unsolved}
        tried = [seen.temperature for step in since for seen in step.groups if seen.prompt_id in names]
        return max(tried, default=self.config.sampling.temperature)


def of_group(scored: ScoredGroup, kind: Kind, learned: bool, shift: float | None) -> Seen:
    """What is remembered of a group."""
    counts = scored.group.counts
    outcomes: Counter[Outcome] = Counter()
    texts: Counter[str] = Counter()
    for completion, verdict in zip(scored.group.completions, scored.verdicts, strict=True):
        outcomes[verdict.outcome] += completion.count
        texts[completion.text] += completion.count
    ((text, count),) = texts.most_common(1)
    likeliest = next(completion for completion in scored.group.completions if completion.text == text)
    return Seen(
        prompt_id=scored.group.prompt.id,
        kind=kind,
        learned=learned,
        temperature=scored.group.temperature,
        reward_mean=scored.reward_mean,
        reward_std=scored.reward_std,
        reward_low=float(scored.rewards.min()),
        reward_high=float(scored.rewards.max()),
        samples=int(counts.sum()),
        correct=outcomes["correct"],
        malformed=outcomes["malformed"],
        truncated=outcomes["truncated"],
        answers=frozenset(plain(c.text) for c in scored.group.completions if c.finish_reason != "length"),
        text=text,
        text_share=count / scored.group.num_generations,
        own_share=own_share(likeliest.logprobs, scored.group.temperature),
        shift=shift,
    )


def own_share(logprobs: Sequence[float] | np.ndarray[tuple[int], np.dtype[np.float32]], temperature: float) -> float:
    """At most the probability at temperature 1.0 of a completion that was sampled at `temperature` (below 1).

    logprobs: [length] at that temperature. A token's odds against a single rival are raised to the power of the
    temperature; against several rivals they would fall further. A probability that float32 cannot tell from 1 counts
    as the largest one below it, so a policy that is sure at 1.0 too can be taken for one that is not.
    """
    surprise = np.maximum(-np.asarray(logprobs, dtype=np.float64), np.finfo(np.float32).epsneg)
    odds = (1 / np.expm1(surprise)) ** temperature
    return float(np.prod(odds / (1 + odds)))


def plain(text: str) -> str:
    """Letters and digits only, so that "No" and "no." are one answer."""
    return "".join(filter(str.isalnum, text.casefold()))


EXAMPLE_SEEN = of_group(EXAMPLE_SCORED_GROUP, "learning", learned=True, shift=0.4)
EXAMPLE_STEP = Step(
    groups=(EXAMPLE_SEEN,),
    updated=True,
    reward_start=-0.2,
    reward_now=0.625,
    grad_norm=1.5,
    kl=0.0,
    seconds=4.2,
)
