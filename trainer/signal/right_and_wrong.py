"""Right and wrong: whether a reward function tells them apart, seen from the rewards that it gives."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from configs.schema import Config, WithoutBest
from rewards.prompts import SAME_REWARD
from trainer.scored import ScoredGroup

FEW_REWARDS = 8
"""Different rewards, up to which they are grades of an answer rather than a score."""

APART = 0.5
"""Of all that rewards differ by, that must lie between a right answer and the best wrong one where they are many."""

DECIMALS = 6
"""Rewards that differ by less are one."""


@dataclass(frozen=True)
class RewardsSeen:
    """The rewards of all completions so far.

    different: them, up to `FEW_REWARDS` and one more. lowest, highest: of all. best_wrong: the highest that is below
    the task's best.
    """

    different: frozenset[float] = frozenset()
    lowest: float = math.inf
    best_wrong: float = -math.inf
    highest: float = -math.inf

    def after(self, scored: Sequence[ScoredGroup], best_reward: float) -> "RewardsSeen":
        """With those of these groups."""
        if not scored:
            return self
        new = np.unique(np.concatenate([group.rewards for group in scored]).round(DECIMALS))
        wrong = new[new < best_reward - SAME_REWARD]
        return self.joined(
            RewardsSeen(
                frozenset(new[: FEW_REWARDS + 1].tolist()),
                float(new[0]),
                float(wrong[-1]) if len(wrong) else -math.inf,
                float(new[-1]),
            )
        )

    def joined(self, other: "RewardsSeen") -> "RewardsSeen":
        """Both together."""
        return RewardsSeen(
            frozenset(sorted(self.different | other.different)[: FEW_REWARDS + 1]),
            min(self.lowest, other.lowest),
            max(self.best_wrong, other.best_wrong),
            max(self.highest, other.highest),
        )


EXAMPLE_REWARDS_SEEN = RewardsSeen(frozenset({0.0, 1.0}), lowest=0.0, best_wrong=0.0, highest=1.0)


@dataclass(frozen=True)
class Chosen:
    """What groups without a right answer are trained on, and why: one sentence."""

    mode: WithoutBest
    why: str

    @property
    def sentences(self) -> str:
        """For people."""
        does: dict[WithoutBest, str] = {
            "spread": "are spread, rescued and searched for one, as those of built-in tasks",
            "skip": "are not trained on",
            "train": "are trained on as they are",
        }
        return f"Groups without a right answer {does[self.mode]}. {self.why} signal.without_best overrules it."


EXAMPLE_CHOSEN = Chosen("spread", "A built-in task tells right from wrong.")


def without_best(config: Config, seen: RewardsSeen, best_reward: float) -> Chosen:
    """`signal.without_best`; where it is null, `spread` if the rewards tell right from wrong, else `train`.

    They do if none is above the best and either there is nothing but one reward yet (rewards as they are would teach
    nothing); or the best was seen, and the rewards are few, or it stands apart from all others.
    """
    if mode := config.signal.without_best:
        return Chosen(mode, "So it is set (signal.without_best).")
    if config.task.name:
        return Chosen("spread", "A built-in task tells right from wrong.")
    few = len(seen.different) <= FEW_REWARDS
    rewards = ", ".join(f"{reward:g}" for reward in sorted(seen.different)) if few else (
        f"many, from {seen.lowest:g} to {seen.highest:g}"
    )  # fmt: skip
    given = f"The rewards so far are {rewards}"
    if seen.highest > best_reward + SAME_REWARD:
        return Chosen(
            "train",
            f"{given}, and {seen.highest:g} is above task.best_reward {best_reward:g}: which answers are right is "
            "not known. If some are, set task.best_reward to what they earn.",
        )
    if len(seen.different) == 1:
        return Chosen("spread", f"{given}, and nothing else: they tell nothing but wrong from right, if that.")
    if seen.highest < best_reward - SAME_REWARD:
        return Chosen("train", f"{given}: none is right (task.best_reward {best_reward:g}), and they differ.")
    if few or best_reward - seen.best_wrong >= APART * (best_reward - seen.lowest):
        return Chosen("spread", f"{given}: they tell right ({best_reward:g}) from wrong.")
    return Chosen("train", f"{given}: a score, without a clear line between right and wrong.")
