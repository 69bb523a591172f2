"""A scored group: generation's group joined with rewards' verdicts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import sqrt
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from generation.groups import EXAMPLE_GROUP, Group
from rewards.prompts import SAME_REWARD, Outcome, Verdict

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
CODES = {outcome: code for code, outcome in enumerate(OUTCOMES)}
SHORT = 64
"""Characters of an answer that may come again and again."""

CORRECT, ANSWERS = CODES["correct"], {CODES["correct"], CODES["wrong"]}


@dataclass(frozen=True)
class ScoredGroup:
    """verdicts: one for each of `group.completions`, in the same order. What follows from them is made once: it is
    asked for many times in a step."""

    group: Group
    verdicts: tuple[Verdict, ...]

    @cached_property
    def rewards(self) -> NDArray[np.float64]:
        """[completions] reward of each distinct completion."""
        return np.array([verdict.reward for verdict in self.verdicts], dtype=np.float64)

    @cached_property
    def reward_low(self) -> float:
        """Of any completion."""
        return float(self.rewards.min())

    @cached_property
    def reward_high(self) -> float:
        """Of any completion."""
        return float(self.rewards.max())

    @cached_property
    def reward_mean(self) -> float:
        """Mean over the group's samples (counts as weights)."""
        return self.mean(self.rewards)

    @cached_property
    def reward_std(self) -> float:
        """Population standard deviation over the group's samples."""
        return sqrt(self.mean((self.rewards - self.reward_mean) ** 2))

    def mean(self, values: NDArray[np.float64]) -> float:
        """Of [completions] values, over the group's samples."""
        return float((values * self.group.counts).sum() / self.group.num_generations)

    @cached_property
    def outcomes(self) -> NDArray[np.int8]:
        """[completions] outcome of each verdict, as its place in `OUTCOMES`."""
        return np.array([CODES[verdict.outcome] for verdict in self.verdicts], dtype=np.int8)

    @cached_property
    def samples(self) -> dict[Outcome, int]:
        """How many samples had which outcome."""
        samples = dict.fromkeys(OUTCOMES, 0)
        for verdict, completion in zip(self.verdicts, self.group.completions, strict=True):
            samples[verdict.outcome] += completion.count
        return samples

    @cached_property
    def answers(self) -> tuple[str | None, ...]:
        """[completions] what each answers, `normalized`; None where it is no answer."""
        return tuple(
            normalized(completion.text) if code in ANSWERS else None
            for completion, code in zip(self.group.completions, self.outcomes.tolist(), strict=True)
        )

    @cached_property
    def samples_of_answer(self) -> Mapping[str, int]:
        """How many samples say what, of those that are answers."""
        samples: dict[str, int] = {}
        for answer, count in zip(self.answers, self.group.counts.tolist(), strict=True):
            if answer is not None:
                samples[answer] = samples.get(answer, 0) + count
        return samples

    def right(self, best_reward: float) -> NDArray[np.bool_]:
        """[completions] which are right answers; one that was punished for its length is."""
        right: NDArray[np.bool_] = (self.outcomes == CORRECT) | (self.rewards >= best_reward - SAME_REWARD)
        return right

    def holds_best(self, best_reward: float) -> bool:
        """Whether a right answer is among the completions."""
        return self.samples["correct"] > 0 or self.reward_high >= best_reward - SAME_REWARD


def prepare(groups: Sequence[ScoredGroup]) -> None:
    """Makes at once what the groups' properties would make one by one, with the same values: a step has many groups,
    and most are so small that NumPy's cost per call is all of it."""
    if not groups:
        return
    lengths = np.array([len(scored.verdicts) for scored in groups])
    ends = np.cumsum(lengths)
    starts = ends - lengths
    verdicts = [verdict for scored in groups for verdict in scored.verdicts]
    rewards = np.array([verdict.reward for verdict in verdicts], dtype=np.float64)
    outcomes = np.array([CODES[verdict.outcome] for verdict in verdicts], dtype=np.int8)
    counts = np.array([one.count for scored in groups for one in scored.group.completions], dtype=np.int64)
    sizes = np.add.reduceat(counts, starts)
    means = segment_sums(rewards * counts, lengths) / sizes
    variances = segment_sums((rewards - np.repeat(means, lengths)) ** 2 * counts, lengths) / sizes
    samples = [np.add.reduceat(np.where(outcomes == code, counts, 0), starts).tolist() for code in CODES.values()]
    made = {
        "reward_low": np.minimum.reduceat(rewards, starts).tolist(),
        "reward_high": np.maximum.reduceat(rewards, starts).tolist(),
        "reward_mean": means.tolist(),
        "reward_std": np.sqrt(variances).tolist(),
        "samples": [dict(zip(OUTCOMES, some, strict=True)) for some in zip(*samples, strict=True)],
    }
    for index, (scored, start, end) in enumerate(zip(groups, starts.tolist(), ends.tolist(), strict=True)):
        vars(scored).update({name: values[index] for name, values in made.items()})
        vars(scored).update(rewards=rewards[start:end], outcomes=outcomes[start:end])
        vars(scored.group).update(counts=counts[start:end], num_generations=int(sizes[index]))


def segment_sums(values: NDArray[np.float64], lengths: NDArray[np.int64]) -> NDArray[np.float64]:
    """[segments] sums of segments that follow each other, to the bit what each one's `sum` gives, which
    `np.add.reduceat` does not. lengths: [segments], of at least 1."""
    starts = np.cumsum(lengths) - lengths
    sums = np.empty(len(lengths))
    for length in np.unique(lengths):
        alike = np.flatnonzero(lengths == length)
        sums[alike] = values[starts[alike][:, None] + np.arange(length)].sum(axis=1)
    return sums


def normalized(text: str) -> str:
    """Letters and digits only, so that "No" and "no." are one answer."""
    return _normalized(text) if len(text) <= SHORT else _normalized.__wrapped__(text)


@lru_cache(maxsize=8192)
def _normalized(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))


EXAMPLE_SCORED_GROUP = ScoredGroup(group=EXAMPLE_GROUP, verdicts=(Verdict(1.0, "correct"), Verdict(-0.5, "wrong")))
