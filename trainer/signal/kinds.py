"""Kinds: what a scored group can teach."""

from collections import Counter
from typing import Literal

from configs.schema import WithoutBest
from rewards.prompts import SAME_REWARD
from trainer.scored import ScoredGroup
from trainer.signal.spread import moved

Kind = Literal["learning", "solved", "collapsed", "floor"]

COLLAPSED_SHARE = 0.9
"""A group whose most frequent text holds at least this share of the samples has (nearly) one text."""

CROWDED_SHARE = 0.5
"""Of the samples, from which on a wrong answer keeps others from turning up."""

NO_ANSWER_SHARE = 0.25
"""Of the samples, from which on a group without a right answer is led to answer at all."""

MOVED_SHARE = 0.1
"""Of the samples that spreading would move, from which on it is worth an update."""

NEW_SHARE = 0.05
"""Of the samples that must be answers seen once, for the same temperature to bring new ones."""

MANY_MISSES = 3
"""Rollouts in a row without a right answer, from which on chance is no longer waited for."""


def classify(scored: ScoredGroup, best_reward: float) -> Kind:
    """What the group can teach (docs/design.md, "Signal").

    learning: rewards differ. solved: one reward, and right. collapsed: one reward below the best and
    (nearly) one text. floor: one reward below the best and many texts.
    """
    if scored.reward_high - scored.reward_low > SAME_REWARD:
        return "learning"
    if scored.holds_best(best_reward):
        return "solved"
    return "collapsed" if _dominant_share(scored) >= COLLAPSED_SHARE else "floor"


def teaches(scored: ScoredGroup, kind: Kind, best_reward: float, mode: WithoutBest, base_temperature: float) -> bool:
    """Whether the group is trained on by its rewards.

    A learning group is, unless it holds no best answer: GRPO would push towards its least wrong one. mode: train
    makes that exception only for rescues (sampled above `base_temperature`), where the least wrong completion is
    the very text that the prompt had collapsed onto.
    """
    if kind != "learning":
        return False
    rescue = scored.group.temperature > base_temperature
    return scored.holds_best(best_reward) or (mode == "train" and not rescue)


def can_spread(scored: ScoredGroup, kind: Kind, best_reward: float, mode: WithoutBest) -> bool:
    """Whether the group may be trained on to spread the policy over more and closer answers (`spread.py`), now or
    after more misses: none is right, and there are at least two."""
    if mode != "spread" or kind == "collapsed" or scored.holds_best(best_reward):
        return False
    return len(scored.samples_of_answer) > 1


def needs_spread(scored: ScoredGroup, misses: int) -> bool:
    """Whether a group that can spread does: one answer crowds out the others, or too many completions are no answer,
    or no right one has come too often. Otherwise the next samples may hold a right one as things are; and a group
    that is led nowhere in particular must not drown the lessons of those with a right answer. After many misses
    little is enough, but nothing is nothing: Adam makes a whole step of whatever gradient there is, so groups that
    are spread already would lead the policy anywhere.

    misses: rollouts in a row, before this one, in which the prompt had no right answer.
    """
    samples, n = scored.samples_of_answer, scored.group.num_generations
    crowded = max(samples.values()) >= CROWDED_SHARE * n
    scattered = n - sum(samples.values()) >= NO_ANSWER_SHARE * n
    return crowded or scattered or (misses >= MANY_MISSES and moved(scored) >= MOVED_SHARE)


def narrow(scored: ScoredGroup, kind: Kind, best_reward: float) -> bool:
    """Whether the same samples would come again and again, and the right answer is not among them: the group
    collapsed, or its answers are few.

    The chance that a further sample is an answer not seen yet is about the share of the answers seen once (Good 1953,
    Biometrika 40, after Turing).
    """
    if kind == "collapsed":
        return True
    if scored.holds_best(best_reward):
        return False
    samples = scored.samples_of_answer
    once = sum(count == 1 for count in samples.values())
    return bool(samples) and once < NEW_SHARE * scored.group.num_generations


def _dominant_share(scored: ScoredGroup) -> float:
    """Share of the samples that have the most frequent text, however it was tokenized."""
    samples_of_text: Counter[str] = Counter()
    for completion in scored.group.completions:
        samples_of_text[completion.text] += completion.count
    return max(samples_of_text.values()) / scored.group.num_generations
