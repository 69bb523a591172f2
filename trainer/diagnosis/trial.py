"""Trial: asking the reward function itself what it depends on, with answers it has seen and the data's own."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from generation.groups import Completion, Group
from rewards.prompts import SAME_REWARD, Prompt, Verdict
from trainer.scored import ScoredGroup, normalized

PROMPTS = 8
"""Prompts that a trial is held on at most, and completions that each gives to it."""

MORE_PROMPTS = 64
"""Prompts that answers must please, before it is said that they please any: most prompts may share an answer."""

Score = Callable[[Sequence[Group]], tuple[ScoredGroup, ...]]
"""`trainer.ports.Scorer.score`."""

LONGEST = 1000
"""Characters of a column's value that may still be an answer."""


@dataclass(frozen=True)
class Trial:
    """None where the trial proves nothing.

    question_matters: some answer earns different rewards on different prompts. False: several different answers earn
        the best reward on every prompt alike.
    answer_pays: a value of the data set's own columns, given as the answer, earns more than any completion did. None:
        the columns hold nothing that could be an answer.
    """

    question_matters: bool | None
    answer_pays: bool | None


@dataclass(frozen=True)
class Exhibit:
    """What a trial needs of a scored group: `PROMPTS` completions at most, the best rewarded among them, with their
    verdicts; the first counts for those that are left out. prompt: its number."""

    prompt: int
    completions: tuple[Completion, ...]
    verdicts: tuple[Verdict, ...]
    temperature: float
    policy_version: int

    def scored(self, prompts: Sequence[Prompt]) -> ScoredGroup:
        """As a group. prompts: the data set."""
        group = Group(prompts[self.prompt], self.completions, self.temperature, self.policy_version)
        return ScoredGroup(group, self.verdicts)


def exhibits(
    numbers: Sequence[int], scored: Sequence[ScoredGroup], earlier: Sequence[Exhibit] = ()
) -> tuple[Exhibit, ...]:
    """Of some groups of this step, or else of earlier ones; one for each of `PROMPTS` prompts at most.

    numbers: of the groups' prompts.
    """
    new = [_exhibit(number, group) for number, group in zip(numbers[:PROMPTS], scored, strict=False)]
    known = {one.prompt for one in new}
    return (*new, *(one for one in earlier if one.prompt not in known))[:PROMPTS]


def _exhibit(number: int, scored: ScoredGroup) -> Exhibit:
    chosen = [*range(min(PROMPTS, len(scored.verdicts)))]
    best = int(scored.rewards.argmax())
    if best not in chosen:
        chosen[-1] = best
    # Copies: arrays from another process are views of all that it sent, which would stay with them.
    first, *others = (
        replace(one, token_ids=one.token_ids.copy(), logprobs=one.logprobs.copy())
        for one in (scored.group.completions[index] for index in chosen)
    )
    rest = scored.group.num_generations - sum(one.count for one in others)
    return Exhibit(
        number,
        (replace(first, count=rest), *others),
        tuple(scored.verdicts[index] for index in chosen),
        scored.group.temperature,
        scored.group.policy_version,
    )


EXAMPLE_TRIAL = Trial(question_matters=True, answer_pays=None)
NOTHING_PROVED = Trial(question_matters=None, answer_pays=None)


def hold(groups: Sequence[ScoredGroup], prompts: Sequence[Prompt], best_reward: float, score: Score) -> Trial:
    """Judges the groups' completions as answers to other prompts, and the prompts' columns as completions.

    groups: at least one. prompts: the data set. Raises RewardError: a user's function fails.
    """
    return Trial(_question_matters(groups, prompts, best_reward, score), _answer_pays(groups, score))


def _question_matters(
    groups: Sequence[ScoredGroup], prompts: Sequence[Prompt], best_reward: float, score: Score
) -> bool | None:
    like = groups[0].group
    tried = [scored.group.completions for scored in groups[:PROMPTS]]
    # The first of every group, then the second: at most what a step asks the function in one call.
    in_turn = (each[index] for index in range(PROMPTS) for each in tried if index < len(each))
    answers = _distinct(in_turn)[: like.num_generations]
    # By lot: every second prompt of a data set may have the same answer.
    asked = random.Random(0).sample(prompts, min(MORE_PROMPTS, len(prompts)))
    if len(asked) == 1:
        return None

    def rewards(of: tuple[Completion, ...], to: Sequence[Prompt]) -> NDArray[np.float64]:  # [prompts, answers]
        return np.stack([each.rewards for each in score([replace(like, prompt=p, completions=of) for p in to])])

    crossed = rewards(answers, asked[:PROMPTS])
    if _differ(crossed):
        return True
    right = tuple(
        answer for answer, reward in zip(answers, crossed[0], strict=True) if reward >= best_reward - SAME_REWARD
    )
    # Prompts whose columns agree may share their right answers, in all the ways there are to write one.
    columns = [{name: value for name, value in prompt.columns.items() if name != "id"} for prompt in asked]
    alike = all(own and own == columns[0] for own in columns)
    if len({normalized(answer.text) for answer in right}) < 2 or alike:
        return None
    return len(asked) > PROMPTS and _differ(rewards(right[:PROMPTS], asked))


def _differ(rewards: NDArray[np.float64]) -> bool:
    """[prompts, answers]: whether some answer earns different rewards."""
    return bool((np.ptp(rewards, axis=0) > SAME_REWARD).any())


def _answer_pays(groups: Sequence[ScoredGroup], score: Score) -> bool | None:
    trials = [(scored, answers) for scored in groups[:PROMPTS] if (answers := _own_answers(scored.group))]
    if not trials:
        return None
    judged = score([replace(scored.group, completions=answers) for scored, answers in trials])
    return any(
        own.rewards.max() > scored.rewards.max() + SAME_REWARD
        for own, (scored, _) in zip(judged, trials, strict=True)
    )


def _own_answers(group: Group) -> tuple[Completion, ...]:
    """The values of the prompt's columns, as completions."""
    like = group.completions[0]
    columns = group.prompt.columns.values()
    listed = [value for column in columns if isinstance(column, list | tuple) for value in column[:PROMPTS]]
    values = (str(value) for value in (*columns, *listed) if isinstance(value, str | int | float))
    return _distinct(
        replace(like, text=value, finish_reason="stop", count=1) for value in values if len(value) <= LONGEST
    )


def _distinct(completions: Iterable[Completion]) -> tuple[Completion, ...]:
    """One for every text."""
    return tuple({completion.text: completion for completion in completions}.values())
