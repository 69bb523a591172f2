"""Drawing next tokens: many rows of logits at once, each with a count of its own, exactly."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p_pytorch

BLOCK_TOKENS = 256
"""Tokens whose probabilities are added up first: a draw finds its block, then its token in it."""


@dataclass(frozen=True)
class Truncation:
    """Which tokens may be drawn; vLLM's parameters of the same names (`top_k` 0 is off)."""

    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0

    def apply(self, logits: Tensor) -> Tensor:
        """[rows, vocabulary] logits with the excluded tokens at -inf."""
        rows, vocabulary = logits.shape
        if self.min_p > 0:
            logits = logits.masked_fill(logits < logits.amax(-1, keepdim=True) + math.log(self.min_p), -torch.inf)
        if 0 < self.top_k < vocabulary or self.top_p < 1:
            k = logits.new_full((rows,), self.top_k, dtype=torch.long) if 0 < self.top_k < vocabulary else None
            p = logits.new_full((rows,), self.top_p) if self.top_p < 1 else None
            logits = apply_top_k_top_p_pytorch(logits.clone(), k, p)
        return logits


EVERY_TOKEN = Truncation()


@dataclass(frozen=True)
class Draws:
    """The distinct next tokens of R rows, D in all: each row's together, most frequent first.

    starts: [R + 1] where each row's begin, and D.
    token_ids, counts: [D] int64. logprobs: [D] float32, natural log, before truncation.
    """

    starts: NDArray[np.int64]
    token_ids: NDArray[np.int64]
    counts: NDArray[np.int64]
    logprobs: NDArray[np.float32]


def draw(
    logits: Tensor,
    temperatures: Sequence[float],
    truncation: Truncation,
    uniforms: NDArray[np.float64],
    counts: NDArray[np.int64],
) -> Draws:
    """For each row as many draws as its count, by inverse transform sampling: a multinomial draw. On the logits'
    device; the host waits for it once.

    logits: [R, vocabulary], before temperature. temperatures: [R]; 0 takes the likeliest token, with the
    log-probability that it has at 1. uniforms: [sum of counts] in [0, 1), one row's after another's. counts: [R].
    """
    device, vocabulary = logits.device, logits.shape[1]
    values = logits.float()
    if any(temperature not in (0, 1) for temperature in temperatures):
        values = values / torch.tensor([temperature or 1.0 for temperature in temperatures], device=device)[:, None]
    probabilities = values.softmax(-1)
    weights = probabilities
    if truncation != EVERY_TOKEN:
        weights = probabilities.masked_fill(truncation.apply(values) == -torch.inf, 0.0)
    row_of = np.repeat(np.arange(len(counts)), counts)
    rows = torch.from_numpy(row_of).to(device)
    drawn = _inverse_transform(weights, rows, torch.from_numpy(uniforms).to(device))
    if 0 in temperatures:
        greedy = torch.tensor([temperature == 0 for temperature in temperatures], device=device)
        drawn = torch.where(greedy[rows], values.argmax(-1)[rows], drawn)
    # Both in one tensor: float64 holds token ids exactly, and the host waits for one copy only.
    both = torch.stack([drawn.double(), probabilities[rows, drawn].log().double()]).cpu().numpy()
    tokens, logprobs = both[0].astype(np.int64), both[1].astype(np.float32)
    if len(row_of) == len(counts):
        return Draws(np.arange(len(counts) + 1), tokens, counts, logprobs)
    pairs, first, times = np.unique(row_of * vocabulary + tokens, return_index=True, return_counts=True)
    order = np.lexsort((pairs, -times, pairs // vocabulary))
    starts = np.searchsorted(pairs // vocabulary, np.arange(len(counts) + 1))
    return Draws(starts, pairs[order] % vocabulary, times[order], logprobs[first[order]])


def _inverse_transform(weights: Tensor, rows: Tensor, uniforms: Tensor) -> Tensor:
    """[N] for each number in [0, 1) the token that it falls on where those of a row take turns in proportion to their
    weights. weights: [R, vocabulary]. rows: [N] of each number."""
    vocabulary = weights.shape[1]
    whole = vocabulary // BLOCK_TOKENS * BLOCK_TOKENS
    blocks = weights[:, :whole].unflatten(1, (-1, BLOCK_TOKENS)).sum(-1) if whole else weights[:, :0]
    if whole < vocabulary:
        blocks = torch.cat([blocks, weights[:, whole:].sum(-1, keepdim=True)], dim=1)
    until = blocks.cumsum(-1, dtype=torch.float64)
    at = uniforms * until[rows, -1]
    block = _first_above(until[rows], at)
    at = at - (until[rows, block] - blocks[rows, block])
    tokens = block[:, None] * BLOCK_TOKENS + torch.arange(min(BLOCK_TOKENS, vocabulary), device=weights.device)
    inside = torch.where(tokens < vocabulary, weights[rows[:, None], tokens.clamp(max=vocabulary - 1)], 0.0)
    return block * BLOCK_TOKENS + _first_above(inside.cumsum(-1, dtype=torch.float64), at)


def _first_above(cumulative: Tensor, at: Tensor) -> Tensor:
    """[N] the first place of each row whose sum so far is above `at`; [N, places] and [N]. Never behind the first
    that reaches the total: rounding must not draw what has no weight."""
    place = torch.searchsorted(cumulative, at[:, None], right=True)
    last = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous())
    return place.minimum(last)[:, 0]


_GOLDEN, _FIRST, _SECOND = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finalizer (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014): a
    permutation of the 64-bit numbers after which neighbours have nothing in common."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * _FIRST
    numbers = (numbers ^ (numbers >> np.uint64(27))) * _SECOND
    return numbers ^ (numbers >> np.uint64(31))


def random_numbers(
    keys: NDArray[np.uint64], positions: NDArray[np.int64], counts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """[sum of counts] in [0, 1), one row's after another's: row r gets `counts[r]` that depend on its key and
    position only (SplitMix64 from a state made of both)."""
    with np.errstate(over="ignore"):
        states = mixed(keys + positions.astype(np.uint64) * _GOLDEN)
        index = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        bits = mixed(np.repeat(states, counts) + (index.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
    return np.ldexp((bits >> np.uint64(11)).astype(np.float64), -53)
