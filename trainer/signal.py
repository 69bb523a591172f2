"""Signal: what a scored group can teach, and the temperature ladder that rescues collapsed prompts."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from trainer.scored import ScoredGroup

Kind = Literal["learning", "solved", "collapsed", "floor"]

SAME_REWARD = 1e-6
"""Rewards no further apart than this are one reward: reward functions round."""

COLLAPSED_SHARE = 0.9
"""A group whose most frequent text holds at least this share of the samples has (nearly) one text."""


def classify(scored: ScoredGroup, best_reward: float) -> Kind:
    """What the group can teach (docs/design.md, "Signal").

    learning: rewards differ. solved: one reward, the task's best. collapsed: one reward below the best and
    (nearly) one text. floor: one reward below the best and many texts.
    """
    rewards = scored.rewards
    if rewards.max() - rewards.min() > SAME_REWARD:
        return "learning"
    if _holds_best(scored, best_reward):
        return "solved"
    return "collapsed" if _dominant_share(scored) >= COLLAPSED_SHARE else "floor"


def teaches(scored: ScoredGroup, kind: Kind, best_reward: float, base_temperature: float) -> bool:
    """Whether the group is trained on.

    A learning group teaches, with one exception: a rescue (sampled above `base_temperature`) without any best
    answer. There GRPO would push towards the least wrong completion, which is the very text the prompt had
    collapsed onto.
    """
    rescue = scored.group.temperature > base_temperature
    return kind == "learning" and (not rescue or _holds_best(scored, best_reward))


@dataclass(frozen=True)
class Ladder:
    """The sampling temperature of every prompt: `base_temperature`, or some rungs above it.

    A rung multiplies by `factor`, and the top rung is exactly `max_temperature`. After a visit:

    | group                            | next visit                                           |
    |----------------------------------|------------------------------------------------------|
    | collapsed                        | one rung up; the top rung stays                      |
    | learning, teaches                | one rung down; base stays                            |
    | learning, does not teach         | one rung up; from the top back to base, and up again |
    | solved, or floor (texts differ)  | base                                                 |

    So a rescue that brings a right answer is followed by another at the next lower rung, not by a fall back
    into the collapse; and one that brings none sweeps the rungs, because too hot finds nothing but noise.

    rungs: prompt id -> rung, for the prompts above base only.
    """

    base_temperature: float
    factor: float
    max_temperature: float
    rungs: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.factor <= 1 or not 0 < self.base_temperature <= self.max_temperature:
            raise ValueError(
                f"A temperature ladder needs factor > 1 and 0 < base <= maximum, got factor {self.factor}, "
                f"base {self.base_temperature}, maximum {self.max_temperature}."
            )

    @property
    def top(self) -> int:
        """The highest rung: the first that reaches `max_temperature`."""
        climb = math.log(self.max_temperature / self.base_temperature)
        return math.ceil(climb / math.log(self.factor) - 1e-9)

    def temperature(self, prompt_id: str) -> float:
        """What the prompt is sampled at on its next visit."""
        return min(self.base_temperature * self.factor ** self.rungs.get(prompt_id, 0), self.max_temperature)

    def after(self, prompt_id: str, kind: Kind, teaches: bool) -> "Ladder":
        """The ladder after a visit to the prompt, by the table above."""
        rung = self.rungs.get(prompt_id, 0)
        if kind == "collapsed":
            rung = min(rung + 1, self.top)
        elif kind == "learning" and teaches:
            rung = max(rung - 1, 0)
        elif kind == "learning":
            rung = rung + 1 if rung < self.top else 0
        else:
            rung = 0
        rungs = {key: value for key, value in self.rungs.items() if key != prompt_id}
        return replace(self, rungs=rungs | {prompt_id: rung} if rung else rungs)


def _holds_best(scored: ScoredGroup, best_reward: float) -> bool:
    return bool(scored.rewards.max() >= best_reward - SAME_REWARD)


def _dominant_share(scored: ScoredGroup) -> float:
    """Share of the samples that have the most frequent text, however it was tokenized."""
    samples_of_text: Counter[str] = Counter()
    for completion in scored.group.completions:
        samples_of_text[completion.text] += completion.count
    return max(samples_of_text.values()) / scored.group.num_generations
