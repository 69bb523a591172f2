"""Objectives: from log-probabilities to a loss, on ordinary `[completion, position]` tensors.

Every objective ends in the same aggregation: a mean over a completion's tokens, weighted by its count and
divided by the number of samples in the whole batch. So results add up over micro-batches and ranks.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Objective:
    """One micro-batch's part of the batch: add these up over micro-batches and ranks.

    loss: scalar to call `backward` on.
    kl: scalar, detached: mean KL to the reference per token (natural log); 0 without a reference.
    clip_fraction: scalar, detached: share of tokens whose gradient the clipping stopped.
    """

    loss: Tensor
    kl: Tensor
    clip_fraction: Tensor


def grpo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    ref_logprobs: Tensor | None,
    advantages: Tensor,
    mask: Tensor,
    counts: Tensor,
    denominator: int,
    *,
    beta: float,
    epsilon: float,
    epsilon_high: float,
) -> Objective:
    """GRPO (DeepSeekMath, arXiv 2402.03300, equation 3): per token
    min(ratio · A, clip(ratio, 1 - epsilon, 1 + epsilon_high) · A) - beta · KL, negated.

    logprobs: [completion, position] under the policy, with gradient.
    old_logprobs: [completion, position] before the first of `num_iterations` updates on this batch; in the
        first one pass `logprobs.detach()`.
    ref_logprobs: [completion, position] under the frozen reference; None when `beta` is 0.
    advantages: [completion].
    mask: [completion, position] bool, true at tokens of the completion.
    counts: [completion] samples of each completion.
    denominator: samples in the whole batch, over all ranks and micro-batches.
    """
    log_ratio = _masked(logprobs - old_logprobs, mask)
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon_high)
    advantage = advantages[:, None]
    gain = torch.minimum(ratio * advantage, clipped * advantage)
    stopped = (clipped * advantage < ratio * advantage).to(logprobs.dtype)
    kl = torch.zeros_like(logprobs) if ref_logprobs is None else k3(logprobs, ref_logprobs, mask)
    return Objective(
        loss=-sample_mean(gain - beta * kl, mask, counts, denominator),
        kl=sample_mean(kl.detach(), mask, counts, denominator),
        clip_fraction=sample_mean(stopped, mask, counts, denominator),
    )


def k3(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> Tensor:
    """[completion, position] Schulman's unbiased, never negative estimate of KL(policy ‖ reference)
    (http://joschu.net/blog/kl-approx.html)."""
    log_ratio = _masked(ref_logprobs - logprobs, mask)
    return log_ratio.exp() - log_ratio - 1


def sample_mean(values: Tensor, mask: Tensor, counts: Tensor, denominator: int) -> Tensor:
    """Scalar: mean of `values` over each completion's tokens, summed over samples, over `denominator`."""
    token_mean = _masked(values, mask).sum(1) / mask.sum(1)
    return (token_mean * counts).sum() / denominator


def _masked(values: Tensor, mask: Tensor) -> Tensor:
    """Zero at padding, whatever stands there."""
    return torch.where(mask, values, 0.0)
