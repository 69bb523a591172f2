"""What happened in a step, once it is over: all bookkeeping follows from it."""

from dataclasses import dataclass

from trainer.scored import ScoredGroup
from trainer.signal.advantages import Lesson
from trainer.signal.treatment import Treated
from trainer.update.report import RankReport


@dataclass(frozen=True)
class Times:
    """Seconds of the run, at the step's start and when the policy's weights had reached the engines, its groups were
    sampled, scored, the update made, and the groups collected that were sampled ahead meanwhile."""

    start: float
    synced: float
    sampled: float
    scored: float
    updated: float
    collected: float


EXAMPLE_TIMES = Times(start=10.0, synced=10.5, sampled=14.5, scored=14.6, updated=20.6, collected=20.6)


@dataclass(frozen=True)
class Happened:
    """step: its number, from 1. policy_version: before its update. scored: its groups, as scored. treated: the same,
    punished where they are overlong.

    drifts: [groups] log-probability drift (`trainer.diagnosis.drift`), None where there is nothing to compare with.
    tree_tokens, dense_tokens: of the batch; 0 without an update. report: None without an update.
    """

    step: int
    policy_version: int
    scored: tuple[ScoredGroup, ...]
    treated: tuple[Treated, ...]
    drifts: tuple[float | None, ...]
    tree_tokens: int
    dense_tokens: int
    report: RankReport | None
    times: Times

    @property
    def policy_lag(self) -> int:
        """Versions between what sampled and what was updated, the most of any group."""
        return self.policy_version - min(one.group.policy_version for one in self.scored)

    @property
    def lessons(self) -> list[Lesson]:
        """What the update was made from."""
        return [one.lesson for one in self.treated if one.lesson is not None]

    @property
    def numbers(self) -> list[int]:
        """[groups] of their prompts."""
        return [one.rollout.prompt for one in self.treated]
