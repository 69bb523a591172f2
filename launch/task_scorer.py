"""Scoring by the task, in the driver's process."""

from collections.abc import Sequence
from dataclasses import dataclass

from generation.groups import Group
from rewards.task import Task
from trainer.scored import ScoredGroup


@dataclass(frozen=True)
class TaskScorer:
    """`trainer.ports.Scorer`: the task, in this process (a user's reward function has its own)."""

    task: Task

    def score(self, groups: Sequence[Group]) -> tuple[ScoredGroup, ...]:
        """See `Scorer.score`."""
        return tuple(
            ScoredGroup(
                group,
                self.task.score(
                    group.prompt,
                    [completion.text for completion in group.completions],
                    [completion.finish_reason == "length" for completion in group.completions],
                    [completion.token_ids.tolist() for completion in group.completions],
                    group.policy_version,
                ),
            )
            for group in groups
        )
