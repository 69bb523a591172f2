"""Evaluation: what the policy can do on some prompts, greedy and at the training temperature."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb, nan
from typing import Literal

from rewards.prompts import SAME_REWARD
from trainer.signal.right_and_wrong import RewardsSeen

EvaluatedOn = Literal["train", "eval"]
"""Prompts that are trained on, or held-out ones."""


@dataclass(frozen=True)
class PromptResult:
    """One prompt in an evaluation.

    question: the last user message. greedy: the text at temperature 0, and its reward.
    sampled_reward: mean at the training temperature. solved: the greedy answer and every sample are best.
    """

    prompt_id: str
    question: str
    greedy: str
    greedy_reward: float
    sampled_reward: float
    solved: bool


@dataclass(frozen=True)
class Evaluation:
    """The policy on some prompts, after `step` steps.

    reward_sampled: mean over prompts at the training temperature; nan without prompts, as are the other means.
    accuracy_greedy: share of prompts whose greedy answer has the best reward.
    pass_at: k -> mean over prompts of the chance that at least one of k samples is right.
    seen: the rewards of all that was sampled.
    """

    step: int
    policy_version: int
    prompts: tuple[PromptResult, ...]
    reward_sampled: float
    accuracy_greedy: float
    pass_at: Mapping[int, float]
    seen: RewardsSeen

    @property
    def means(self) -> Mapping[str, float]:
        """Those over prompts, by name."""
        return {
            "reward_sampled": self.reward_sampled,
            "accuracy_greedy": self.accuracy_greedy,
            **{f"pass_at_{k}": chance for k, chance in self.pass_at.items()},
        }

    @property
    def prompts_solved(self) -> int:
        return sum(prompt.solved for prompt in self.prompts)


def pass_at(k: int, samples: int, right: int) -> float:
    """Chance that at least one of `k` samples is right, estimated without bias from `right` of `samples` that were
    (Chen et al. 2021, arXiv 2107.03374, section 2.1): 1 - C(samples - right, k) / C(samples, k).

    >>> pass_at(1, samples=4, right=1), pass_at(2, samples=4, right=1), pass_at(4, samples=4, right=1)
    (0.25, 0.5, 1.0)
    """
    return 1 - comb(samples - right, k) / comb(samples, k)


def doubling(most: int) -> list[int]:
    """1, 2, 4 and so on, and `most`.

    >>> doubling(6)
    [1, 2, 4, 6]
    """
    return [*(1 << power for power in range((most - 1).bit_length())), most]


def reaches(evaluation: Evaluation, target_reward: float) -> bool:
    """Whether both the mean sampled reward and the mean greedy reward are at the target or above."""
    greedy = mean([result.greedy_reward for result in evaluation.prompts])
    return min(evaluation.reward_sampled, greedy) >= target_reward - SAME_REWARD


def mean(values: Sequence[float]) -> float:
    """nan of none."""
    return sum(values) / len(values) if values else nan
