"""Recall: a right answer that was sampled once, and comes no longer, is shown to the policy again.

Self-imitation learning (arXiv 1806.05635), for prompts that would not be learned otherwise: training on other prompts
can push an answer out of reach that the policy once gave.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from generation.groups import Completion
from rewards.prompts import Verdict
from trainer.scored import ScoredGroup
from trainer.signal.kinds import is_right

SHOWN_SHARE = 0.1
"""Samples that are added to a group, of those that it has."""


@dataclass(frozen=True)
class Recall:
    """answers: prompt id -> the most frequent right completion of its latest group with one, and its verdict."""

    answers: Mapping[str, tuple[Completion, Verdict]] = field(default_factory=dict)

    def after(self, scored: Sequence[ScoredGroup], best_reward: float) -> "Recall":
        """What is known after a step."""
        found = {}
        for group in scored:
            judged = zip(group.group.completions, group.verdicts, strict=True)
            right = [(completion, verdict) for completion, verdict in judged if is_right(verdict, best_reward)]
            if right:
                found[group.group.prompt.id] = max(right, key=lambda answer: answer[0].count)
        return replace(self, answers={**self.answers, **found})

    def shown(self, scored: ScoredGroup) -> ScoredGroup:
        """The group with the answer that is known to its prompt among its completions. The policy did not sample it
        now, so its log-probabilities are NaN: the trainer takes its own."""
        completion, verdict = self.answers[scored.group.prompt.id]
        known = replace(
            completion,
            logprobs=np.full_like(completion.logprobs, np.nan),
            count=max(1, round(SHOWN_SHARE * scored.group.num_generations)),
        )
        group = replace(scored.group, completions=(*scored.group.completions, known))
        return ScoredGroup(group, (*scored.verdicts, verdict))
