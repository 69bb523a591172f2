"""A look at the untrained policy: real groups of a few prompts, scored."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from configs.schema import Config
from generation.engine import SampleRequest, seed_of
from generation.groups import Group, tree_nodes
from rewards.prompts import Outcome, Prompt
from rewards.task import Task
from trainer.diagnosis.trial import EXAMPLE_TRIAL, Trial, hold
from trainer.ports import Sampler, Scorer
from trainer.scored import EXAMPLE_SCORED_GROUP, ScoredGroup
from trainer.signal.kinds import Kind, classify

PROMPTS = 8
AT_ONCE = 4
"""Prompts of a batch: one alone would leave the engine half idle. At other temperatures there is one batch."""

SAMPLES = 256
GROWTH = 4
LONGER = 2.5
"""Groups grow by `GROWTH`, from a sixteenth of their full size on, as long as there is time for a batch that takes
`LONGER` times as long."""

SECONDS = 30.0
"""Sampling that would take longer is left out, but for the smallest groups of the first batch."""

OTHER_TEMPERATURES = (0.7, 1.0, 1.4)

NEAR = 1.15
"""Temperatures no further apart than this factor are one."""


@dataclass(frozen=True)
class Look:
    """What was seen.

    groups: at `sampling.temperature`, of a few prompts drawn from the data set; the first of them are those of
        `others`. kinds: of each. others: temperature -> groups, at further temperatures.
    trial: what the reward function itself depends on.
    nodes, seconds: of the prefix trees of the last and largest batch, and what sampling it took.
    """

    groups: tuple[ScoredGroup, ...]
    kinds: tuple[Kind, ...]
    others: Mapping[float, tuple[ScoredGroup, ...]]
    trial: Trial
    nodes: int
    seconds: float

    @property
    def unsolved(self) -> tuple[ScoredGroup, ...]:
        """The groups that are not solved."""
        return tuple(group for group, kind in zip(self.groups, self.kinds, strict=True) if kind != "solved")


EXAMPLE_LOOK = Look((EXAMPLE_SCORED_GROUP,), ("learning",), {}, EXAMPLE_TRIAL, nodes=40, seconds=0.8)


def look(
    config: Config,
    task: Task,
    generator: Sampler,
    scorer: Scorer,
    phase: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> Look:
    """Samples and scores; about `SECONDS` of sampling, with smaller groups or fewer prompts where it is slow."""
    prompts = drawn(task.prompts, config.seed)
    first, more = prompts[:AT_ONCE], prompts[AT_ONCE:]
    largest = max(SAMPLES, config.sampling.num_generations)
    temperature = config.sampling.temperature
    start = clock()

    def sample(chosen: Sequence[Prompt], at: float, size: int) -> tuple[tuple[ScoredGroup, ...], float]:
        phase(f"sampling {len(chosen)} × {size} at temperature {at:g}")
        began = clock()
        groups = generator.sample(
            [SampleRequest(p, size, at, seed_of(config.seed, "check", at, p.id)) for p in chosen]
        )
        return scorer.score(groups), clock() - began

    def in_time(seconds: float) -> bool:
        return clock() - start + seconds <= SECONDS

    for part in (GROWTH**2, GROWTH, 1):  # the first warms the engine up
        size = largest // part
        groups, seconds = sample(first, temperature, size)
        if not in_time(LONGER * seconds):
            break
    latest = groups
    if more and in_time(seconds):
        latest, seconds = sample(more, temperature, size)
        groups += latest

    kinds = tuple(classify(group, task.best_reward) for group in groups)
    others = {}
    wanted = [at for at in OTHER_TEMPERATURES if max(at / temperature, temperature / at) > NEAR]
    hottest = config.signal.rescue_max_temperature
    if not {"learning", "solved"} & {*kinds} and hottest > max(*OTHER_TEMPERATURES, temperature) * NEAR:
        wanted.append(hottest)
    for at in wanted:
        if not in_time(seconds):
            break
        others[at], _ = sample(first, at, size)
    trial = hold(groups, task.prompts, task.best_reward, scorer.score)
    return Look(groups, kinds, others, trial, nodes([scored.group for scored in latest]), seconds)


def drawn(prompts: Sequence[Prompt], seed: int) -> tuple[Prompt, ...]:
    """`PROMPTS` of them, by chance: data sets are often in some order."""
    order = np.random.default_rng([seed, PROMPTS]).permutation(len(prompts))
    return tuple(prompts[index] for index in order[:PROMPTS])


def nodes(groups: Sequence[Group]) -> int:
    """Nodes of the completions' prefix trees: what forking computes."""
    return sum(tree_nodes([c.token_ids.tolist() for c in group.completions]) for group in groups)


def reduced(scored: ScoredGroup, n: int, seed: int) -> ScoredGroup:
    """`n` of the group's samples, drawn without replacement: samples are exchangeable, so this is a group of `n`."""
    group = scored.group
    if n >= group.num_generations:
        return scored
    counts = np.random.default_rng(seed_of(seed, "reduced", group.prompt.id)).multivariate_hypergeometric(
        group.counts, n
    )
    kept = [index for index in range(len(counts)) if counts[index]]
    completions = tuple(replace(group.completions[index], count=int(counts[index])) for index in kept)
    return ScoredGroup(replace(group, completions=completions), tuple(scored.verdicts[index] for index in kept))


def counts_by_reward(scored: ScoredGroup) -> dict[float, int]:
    """reward -> samples."""
    counts: Counter[float] = Counter()
    for verdict, completion in zip(scored.verdicts, scored.group.completions, strict=True):
        counts[verdict.reward] += completion.count
    return dict(counts)


def count(scored: ScoredGroup, outcome: Outcome) -> int:
    """Samples with that verdict."""
    pairs = zip(scored.verdicts, scored.group.completions, strict=True)
    return sum(completion.count for verdict, completion in pairs if verdict.outcome == outcome)


def share(groups: Sequence[ScoredGroup], outcome: Outcome) -> float:
    """Share of all the groups' samples with that verdict."""
    return sum(count(group, outcome) for group in groups) / sum(group.group.num_generations for group in groups)


def distinct_share(groups: Sequence[ScoredGroup]) -> float:
    """Distinct texts of each group, over samples."""
    texts = sum(len({completion.text for completion in group.group.completions}) for group in groups)
    return texts / sum(group.group.num_generations for group in groups)
