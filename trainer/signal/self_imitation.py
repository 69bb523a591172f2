"""Self-imitation: a right answer that was sampled once, and comes no longer, is shown to the policy again.

Self-imitation learning (arXiv 1806.05635), for prompts that would not be learned otherwise: training on other prompts
can push an answer out of reach that the policy once gave.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from generation.groups import Completion, FinishReason, Group
from rewards.prompts import SAME_REWARD, Verdict
from trainer.scored import ScoredGroup

SHOWN_SHARE = 0.1
"""Samples that are added to a group, of those that it has."""

PROMPTS = 10_000
"""Prompts whose right answer is remembered; of more, those that were right most recently."""


@dataclass(frozen=True)
class RightAnswer:
    """token_ids: [length]. verdict: what it earned."""

    token_ids: NDArray[np.int32]
    text: str
    finish_reason: FinishReason
    verdict: Verdict


@dataclass(frozen=True)
class SelfImitation:
    """answers: prompt's number -> the most frequent right completion of its latest group with one; the prompts that
    were right longest ago first."""

    answers: Mapping[int, RightAnswer] = field(default_factory=dict)

    def after(self, numbers: Sequence[int], scored: Sequence[ScoredGroup], best_reward: float) -> "SelfImitation":
        """What is known after a step. numbers: of the groups' prompts."""
        found = {
            number: answer
            for number, group in zip(numbers, scored, strict=True)
            if (answer := _most_frequent_right(group, best_reward)) is not None
        }
        kept = [number for number in self.answers if number not in found]
        kept = kept[max(0, len(kept) + len(found) - PROMPTS) :]
        return SelfImitation({**{number: self.answers[number] for number in kept}, **found})

    def shown(self, number: int, scored: ScoredGroup) -> ScoredGroup:
        """The group with the answer that is known to its prompt among its completions. The policy did not sample it
        now, so its log-probabilities are NaN: the trainer takes its own."""
        answer = self.answers[number]
        known = Completion(
            answer.token_ids,
            answer.text,
            np.full(len(answer.token_ids), np.nan, np.float32),
            answer.finish_reason,
            count=max(1, round(SHOWN_SHARE * scored.group.num_generations)),
        )
        group = scored.group
        return ScoredGroup(
            Group(group.prompt, (*group.completions, known), group.temperature, group.policy_version),
            (*scored.verdicts, answer.verdict),
        )


def _most_frequent_right(scored: ScoredGroup, best_reward: float) -> RightAnswer | None:
    """Completions come most frequent first."""
    if not scored.holds_best(best_reward):
        return None
    first = next(
        index
        for index, verdict in enumerate(scored.verdicts)
        if verdict.outcome == "correct" or verdict.reward >= best_reward - SAME_REWARD
    )
    completion = scored.group.completions[first]
    # A copy: arrays from another process are views of all that it sent, which would stay with them.
    return RightAnswer(completion.token_ids.copy(), completion.text, completion.finish_reason, scored.verdicts[first])
