"""What one step did, as numbers; the fields are the columns of `metrics.jsonl`."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from trainer.scored import ScoredGroup
from trainer.signal import Kind


@dataclass(frozen=True)
class StepMetrics:
    """One step of the loop. Times are seconds; a step without an update has zeros from `loss` on.

    policy_version: that the step's groups were sampled with.
    reward_mean, reward_std: over all samples of the step.
    groups_*: how many groups were of each kind; `groups_trained` were updated on.
    completions: samples; distinct_completions: of them different from one another within a group.
    truncated, malformed, correct: share of the samples with that verdict.
    tree_tokens: tokens that the update processed; dense_tokens: that one row per sample would have had.
    kl: to the reference model, 0 without one. clip_fraction: share of tokens whose gradient was clipped.
    logprob_gap: mean |trainer - sampler| log-probability per token.
    temperature_max: highest temperature of the rescue ladder in this step.
    """

    step: int
    policy_version: int
    reward_mean: float
    reward_std: float
    groups_learning: int
    groups_solved: int
    groups_collapsed: int
    groups_floor: int
    groups_trained: int
    prompts_solved: int
    completions: int
    distinct_completions: int
    truncated: float
    malformed: float
    correct: float
    temperature_max: float
    tree_tokens: int
    dense_tokens: int
    loss: float
    kl: float
    clip_fraction: float
    logprob_gap: float
    grad_norm: float
    learning_rate: float
    seconds_sample: float
    seconds_score: float
    seconds_update: float
    seconds_publish: float
    seconds_step: float
    seconds_total: float


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
    """The policy on the data set.

    reward_sampled: mean over prompts at the training temperature.
    accuracy_greedy: share of prompts whose greedy answer has the best reward.
    """

    policy_version: int
    prompts: tuple[PromptResult, ...]
    reward_sampled: float
    accuracy_greedy: float

    @property
    def prompts_solved(self) -> int:
        return sum(prompt.solved for prompt in self.prompts)


@dataclass(frozen=True)
class Result:
    """How a run ended.

    reached: None when no target was set. stopped: why it ended, one sentence.
    """

    reached: bool | None
    stopped: str
    steps: int
    seconds: float
    policy_version: int
    before: Evaluation
    after: Evaluation
