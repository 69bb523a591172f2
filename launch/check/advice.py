"""What group size and temperature to train with, by the chances of signal."""

from collections.abc import Sequence
from dataclasses import dataclass

from configs.schema import Config
from launch.check.look import Look, count, counts_by_reward
from trainer.scored import ScoredGroup
from trainer.signal.chances import chance_of_contrast, chance_of_right, chance_of_signal

SIZES = (8, 16, 32, 64, 128, 256)

ENOUGH = 0.9
"""A group size suffices if so large a share of groups is expected to have signal ..."""

AT_LEAST = 0.5
"""... and no prompt that was seen has a smaller chance than this."""

MARGIN = 0.05
"""Another temperature is recommended if it does better by more than this."""


@dataclass(frozen=True)
class Chance:
    """Of a group of `num_generations`, mean over prompts: rewards differ (signal), it holds a right answer (right).

    rare: prompts whose groups have signal with less than half a chance.
    """

    num_generations: int
    signal: float
    right: float
    rare: int


EXAMPLE_CHANCE = Chance(num_generations=64, signal=0.97, right=0.91, rare=0)


@dataclass(frozen=True)
class Recommendation:
    """reason: one sentence."""

    num_generations: int
    temperature: float
    reason: str


EXAMPLE_RECOMMENDATION = Recommendation(
    128, 1.0, "From 16 generations on 95 % of groups are expected to have signal."
)


def chances(groups: Sequence[ScoredGroup]) -> tuple[Chance, ...]:
    """A line for each of `SIZES`."""
    lines = []
    for size in SIZES:
        signal = [chance_of_signal(counts_by_reward(group), size) for group in groups]
        right = [chance_of_right(count(group, "correct"), group.group.num_generations, size) for group in groups]
        rare = sum(chance < 0.5 for chance in signal)
        lines.append(Chance(size, sum(signal) / len(groups), sum(right) / len(groups), rare))
    return tuple(lines)


def recommend(look: Look, config: Config) -> Recommendation:
    """The configured values where they do; else the temperature at which groups have signal most often, and the
    smallest of `SIZES` that suffices there.

    Where right answers were seen, a group has signal only if it holds one and another that is not: the difference
    between two wrong answers says nothing about the right one.
    """
    size, temperature = config.sampling.num_generations, config.sampling.temperature
    if not look.unsolved:
        return Recommendation(size, temperature, "Every group was solved, so there is nothing to choose by.")
    groups_at = {temperature: look.groups, **look.others}
    unsolved = {group.group.prompt.id for group in look.unsolved}
    right_seen = any(count(group, "correct") for groups in groups_at.values() for group in groups)
    chance = _contrast if right_seen else _signal
    kind = "a right answer beside others" if right_seen else "rewards that differ (a right answer was never seen)"

    def at(some: float, n: int, among: set[str]) -> list[float]:
        return [chance(group, n) for group in groups_at[some] if group.group.prompt.id in among]

    compared = unsolved & {group.group.prompt.id for groups in look.others.values() for group in groups}
    better = {some: _mean(at(some, size, compared)) for some in groups_at} if compared else {temperature: 0.0}
    best = max(better, key=lambda some: better[some])
    if better[best] <= better[temperature] + MARGIN:
        best = temperature

    found = at(best, size, unsolved)
    smallest = next(
        (n for n in SIZES if _mean(at(best, n, unsolved)) >= ENOUGH and min(at(best, n, unsolved)) >= AT_LEAST), None
    )
    of = f"of groups are expected to hold {kind}"
    hotter = f"At temperature {best:g}" + (f" instead of {temperature:g}" if best != temperature else "")
    if smallest is None:
        largest = max(size, SIZES[-1])
        reached = _mean(at(best, largest, unsolved))
        return Recommendation(largest, best, f"{hotter} only {reached:.0%} {of} even at {largest} generations.")
    if size >= smallest:
        return Recommendation(
            size, best, f"{hotter} and {size} generations {_mean(found):.0%} {of}; {smallest} would do."
        )
    reached = _mean(at(best, smallest, unsolved))
    return Recommendation(
        smallest, best, f"{hotter} {reached:.0%} {of} at {smallest} generations, {_mean(found):.0%} at {size}."
    )


def _contrast(group: ScoredGroup, n: int) -> float:
    return chance_of_contrast(count(group, "correct"), group.group.num_generations, n)


def _signal(group: ScoredGroup, n: int) -> float:
    return chance_of_signal(counts_by_reward(group), n)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
