"""Objectives: from log-probabilities to a loss, on ordinary `[completion, position]` tensors.

An objective gives every token a surrogate (PPO's word for what is maximised) and a weight; the loss is the negated
sum of their products over all tokens of all samples. Weights divide by sizes of the whole batch, so results add up
over micro-batches and ranks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from configs.schema import TrainingSettings, clip_range


@dataclass(frozen=True)
class MicroBatch:
    """What objectives read: C completions of at most L tokens. Log-probabilities are natural; what stands at
    padding does not matter.

    logprobs: [C, L] under the policy, with gradient.
    old_logprobs: [C, L] before the first of `num_iterations` updates on this batch; in the first one pass
        `logprobs.detach()`.
    sampler_logprobs: [C, L] that the engine reported.
    ref_logprobs: [C, L] under the frozen reference; None when `beta` is 0.
    advantages: [C].
    mask: [C, L] bool, true at tokens of the completion.
    weights: [C] how many samples each completion stands for.
    """

    logprobs: Tensor
    old_logprobs: Tensor
    sampler_logprobs: Tensor
    ref_logprobs: Tensor | None
    advantages: Tensor
    mask: Tensor
    weights: Tensor

    @property
    def lengths(self) -> Tensor:
        """[C, 1] tokens of each completion."""
        return self.mask.sum(1, keepdim=True)


@dataclass(frozen=True)
class Sizes:
    """What losses divide by, the same for every micro-batch and rank.

    num_samples, num_tokens: of the whole batch, as in `Batch`. max_completion_length: tokens.
    """

    num_samples: int
    num_tokens: int
    max_completion_length: int


@dataclass(frozen=True)
class Terms:
    """What an objective makes of a micro-batch.

    surrogate: [C, L] what is maximised. clipped: [C, L] bool, where clipping changed it.
    weight: [C, 1] or a number, of each token's surrogate and KL in the loss.
    """

    surrogate: Tensor
    clipped: Tensor
    weight: Tensor | float


@dataclass(frozen=True)
class Objective:
    """One micro-batch's part of the batch: add these up over micro-batches and ranks.

    loss: scalar to call `backward` on.
    kl: scalar, detached: mean KL to the reference per token (natural log); 0 without a reference.
    clip_fraction: scalar, detached: share of tokens whose gradient the clipping stopped (cispo: shortened).
    logprob_gap: scalar, detached: mean |trainer - sampler| log-probability per token, before the first update.
    """

    loss: Tensor
    kl: Tensor
    clip_fraction: Tensor
    logprob_gap: Tensor


def objective(batch: MicroBatch, sizes: Sizes, training: TrainingSettings, lagged: bool) -> Objective:
    """The loss of `training.loss_type`: its surrogate, corrected for the sampler, less `beta` times the KL.

    lagged: whether an earlier version of the policy may have sampled. This is the decoupled objective then, of
    PPO-EWMA (arXiv 2110.00641) and AReaL (arXiv 2505.24298): ratios are clipped around the policy before the update,
    which limits how far a step goes, and the correction makes up for the policy that sampled.
    """
    log_ratio = LEVELS[training.importance_sampling_level](batch)
    terms = LOSSES[training.loss_type](batch, log_ratio, clip_range(training), sizes)
    weight = sampler_correction(
        batch, training.vllm_importance_sampling_mode, training.vllm_importance_sampling_clip_max
    )
    reference = batch.ref_logprobs
    kl = torch.zeros_like(batch.logprobs) if reference is None else k3(batch.logprobs, reference, batch.mask)
    # Its value is the same on average; its gradient is that of the KL only with the ratio (DeepSeek-V3.2,
    # arXiv 2512.02556, section 3.1).
    penalty = kl * log_ratio.exp() if training.use_bias_correction_kl else kl
    if lagged and training.use_bias_correction_kl:
        penalty = penalty * weight  # the whole ratio, of the policy to what sampled
    gap = (batch.old_logprobs - batch.sampler_logprobs).abs()

    def total(values: Tensor) -> Tensor:
        return (_masked(values, batch.mask) * batch.weights[:, None]).sum()

    return Objective(
        loss=-total((terms.surrogate * weight - training.beta * penalty) * terms.weight),
        kl=total(kl.detach()) / sizes.num_tokens,
        clip_fraction=total(terms.clipped.to(kl.dtype)) / sizes.num_tokens,
        logprob_gap=total(gap) / sizes.num_tokens,
    )


def token_level(batch: MicroBatch) -> Tensor:
    """[C, L] log-ratio of policy to old policy at each token, 0 at padding."""
    return _masked(batch.logprobs - batch.old_logprobs, batch.mask)


def sequence_level(batch: MicroBatch) -> Tensor:
    """[C, L] the mean of a completion's log-ratios at each of its tokens, 0 at padding. With the grpo loss this is
    GSPO (arXiv 2507.18071, equations 5 and 7)."""
    mean = token_level(batch).sum(1, keepdim=True) / batch.lengths
    return _masked(mean.expand_as(batch.logprobs), batch.mask)


Clip = tuple[float, float]
"""(epsilon, epsilon_high): ratios are kept between 1 - epsilon and 1 + epsilon_high."""


def grpo(batch: MicroBatch, log_ratio: Tensor, clip: Clip, sizes: Sizes) -> Terms:
    """GRPO (DeepSeekMath, arXiv 2402.03300, equation 3): the clipped surrogate, as a mean over a completion's
    tokens and then over samples."""
    surrogate, clipped = clipped_surrogate(log_ratio.exp(), batch.advantages, clip)
    return Terms(surrogate, clipped, 1 / (batch.lengths * sizes.num_samples))


def dr_grpo(batch: MicroBatch, log_ratio: Tensor, clip: Clip, sizes: Sizes) -> Terms:
    """Dr. GRPO (arXiv 2503.20783, section 3.2): every completion's sum is divided by one constant length, so
    that long wrong answers are not favoured. (Its advantages are not divided by the standard deviation.)"""
    surrogate, clipped = clipped_surrogate(log_ratio.exp(), batch.advantages, clip)
    return Terms(surrogate, clipped, 1 / (sizes.max_completion_length * sizes.num_samples))


def dapo(batch: MicroBatch, log_ratio: Tensor, clip: Clip, sizes: Sizes) -> Terms:
    """DAPO (arXiv 2503.14476, equation 8): every token of the batch weighs the same, and the upper clip is wider
    than the lower."""
    surrogate, clipped = clipped_surrogate(log_ratio.exp(), batch.advantages, clip)
    return Terms(surrogate, clipped, 1 / sizes.num_tokens)


def cispo(batch: MicroBatch, log_ratio: Tensor, clip: Clip, sizes: Sizes) -> Terms:
    """CISPO (MiniMax-M1, arXiv 2506.13585, section 3.1): REINFORCE weighted by the clipped ratio, which has
    no gradient itself, so that no token falls out; every token of the batch weighs the same."""
    ratio = log_ratio.detach().exp()
    kept = ratio.clamp(1 - clip[0], 1 + clip[1])
    return Terms(kept * batch.advantages[:, None] * batch.logprobs, kept != ratio, 1 / sizes.num_tokens)


def rloo(batch: MicroBatch, log_ratio: Tensor, clip: Clip, sizes: Sizes) -> Terms:
    """RLOO (arXiv 2402.14740): REINFORCE on whole completions, as a mean over samples. Over several
    iterations the ratio of the whole completion, the product over its tokens, is clipped, as TRL's RLOOTrainer
    does. (Its advantages have the mean of the other samples as baseline.)

    A completion's one surrogate is spread evenly over its tokens (so a sampler correction by token weighs it by the
    correction's mean); their KL adds up.
    """
    surrogate, clipped = clipped_surrogate(log_ratio.sum(1, keepdim=True).exp(), batch.advantages, clip)
    return Terms(surrogate / batch.lengths, clipped.expand_as(batch.mask), 1 / sizes.num_samples)


Loss = Callable[[MicroBatch, Tensor, Clip, Sizes], Terms]

LEVELS: Mapping[str, Callable[[MicroBatch], Tensor]] = {"token": token_level, "sequence": sequence_level}
"""`training.importance_sampling_level`: the log-ratio that a loss is given."""

LOSSES: Mapping[str, Loss] = {"grpo": grpo, "dr_grpo": dr_grpo, "dapo": dapo, "cispo": cispo, "rloo": rloo}
"""`training.loss_type`."""


def clipped_surrogate(ratio: Tensor, advantages: Tensor, clip: Clip) -> tuple[Tensor, Tensor]:
    """min(ratio · A, clip(ratio) · A), and where the clipping made it less (PPO, arXiv 1707.06347, equation 7)."""
    surrogate = ratio * advantages[:, None]
    bound = ratio.clamp(1 - clip[0], 1 + clip[1]) * advantages[:, None]
    return torch.minimum(surrogate, bound), bound < surrogate


def sampler_correction(batch: MicroBatch, mode: str, clip_max: float) -> Tensor:
    """[C, L] or [C, 1] weight of the surrogate, without gradient: policy over sampler probability, because what
    sampled is not quite what is trained (Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy
    RL training"). By token, or as the product over a completion; above `clip_max` it is that (truncate) or 0 (mask).
    """
    if mode == "off":
        return torch.ones_like(batch.old_logprobs)
    level, above = mode.split("_")
    log_weight = _masked(batch.old_logprobs - batch.sampler_logprobs, batch.mask).detach()
    weight = (log_weight if level == "token" else log_weight.sum(1, keepdim=True)).exp()
    return weight.clamp(max=clip_max) if above == "truncate" else torch.where(weight > clip_max, 0.0, weight)


def k3(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> Tensor:
    """[C, L] Schulman's unbiased, never negative estimate of KL(policy ‖ reference), 0 at padding
    (http://joschu.net/blog/kl-approx.html)."""
    log_ratio = _masked(ref_logprobs - logprobs, mask)
    return log_ratio.exp() - log_ratio - 1


def _masked(values: Tensor, mask: Tensor) -> Tensor:
    """Zero at padding, whatever stands there."""
    return torch.where(mask, values, 0.0)
