"""The plain way: a sample at a time from vLLM, and one padded row of the update for every sample."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from trainer.signal.step_size import WHOLE, StepSize
from trainer.update.forest import Forest
from trainer.update.rank import Rank
from trainer.update.report import RankReport


class DenseRank(Rank):
    """A rank whose update takes a padded row for every sample; `Rank.update` of it takes trees all the same."""

    def update(
        self, forests: Sequence[Forest], num_samples: int, num_tokens: int, step_size: StepSize = WHOLE
    ) -> RankReport:
        """See `Rank.update`: the same numbers, the dense way."""
        rows = dense(forests, self._spec.training.micro_batch_tokens)
        policies: list[Any] = [policy for policy in (self._engine.module, self._reference) if policy is not None]
        for policy in policies:
            policy.forward = partial(padded_logprobs, policy.model)
        try:
            return super().update(rows, num_samples, num_tokens, step_size)
        finally:
            for policy in policies:
                del policy.forward


def dense(forests: Sequence[Forest], micro_batch_tokens: int) -> list[Forest]:
    """A tree without branches for every sample, in forests of at most `micro_batch_tokens` padded tokens."""
    samples = [sample for forest in forests for sample in _samples(forest)]
    width = max(len(sample.prompt) + len(sample.tokens) - 1 for sample in samples)
    rows = max(1, micro_batch_tokens // width)
    return [_forest(samples[first : first + rows]) for first in range(0, len(samples), rows)]


def padded_logprobs(
    model: Any,
    token_ids: Tensor,
    position_ids: Tensor,
    subtree_end: Tensor,
    parents: Tensor,
    parent_temperature: Tensor,
    edge_parent: Tensor,
    edge_token: Tensor,
) -> Tensor:
    """[E] what `Policy.forward` gives for trees without branches, from a row each, padded on the right: ordinary
    causal attention, logits from the first position on that any row needs."""
    starts = torch.nonzero(position_ids == 0)[:, 0]
    rows = [token_ids[start : subtree_end[start]] for start in starts]
    row = torch.bucketize(parents, starts, right=True) - 1
    first = int(position_ids[parents].min())
    input_ids = pad_sequence(rows, batch_first=True)
    logits = model(
        input_ids=input_ids,
        attention_mask=pad_sequence([torch.ones_like(ids) for ids in rows], batch_first=True),
        logits_to_keep=input_ids.shape[1] - first,
        use_cache=False,
    ).logits
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    temperature = torch.ones_like(starts, dtype=torch.float32).index_put((row,), parent_temperature)
    logits = logits / temperature[:, None, None]
    # As TRL's `selective_log_softmax`, a row at a time to save memory.
    totals = torch.stack([row_logits.logsumexp(-1) for row_logits in logits])
    position = position_ids[parents] - first
    chosen: Tensor = logits[row[edge_parent], position[edge_parent], edge_token]
    return chosen - totals[row[edge_parent], position[edge_parent]]


@dataclass(frozen=True)
class Sample:
    """prompt, tokens: token ids. logprobs: of `tokens`, the sampler's."""

    prompt: NDArray[np.int64]
    tokens: NDArray[np.int64]
    logprobs: NDArray[np.float32]
    temperature: np.float32
    advantage: np.float32


def _samples(forest: Forest) -> Iterator[Sample]:
    """Every sample of the forest, duplicates one by one."""
    nodes = np.arange(len(forest.token_ids))
    for completion, mask in enumerate(forest.mask):
        edges = forest.completion_edges[completion, mask]
        parent = forest.edge_parent[edges[0]]
        last = forest.parents[parent]  # token of the prompt
        sample = Sample(
            prompt=forest.token_ids[(nodes <= last) & (last < forest.subtree_end)],
            tokens=forest.edge_token[edges],
            logprobs=forest.sampler_logprobs[completion, mask],
            temperature=forest.parent_temperature[parent],
            advantage=forest.advantages[completion],
        )
        yield from [sample] * int(forest.weights[completion])


def _forest(samples: Sequence[Sample]) -> Forest:
    """A tree for each sample, none of which shares anything."""
    rows = [np.concatenate([sample.prompt, sample.tokens[:-1]]) for sample in samples]
    widths = np.array([len(row) for row in rows])
    lengths = np.array([len(sample.tokens) for sample in samples])
    ends = widths.cumsum()
    mask = np.arange(lengths.max()) < lengths[:, None]
    edges, logprobs = np.zeros(mask.shape, np.int64), np.zeros(mask.shape, np.float32)
    edges[mask] = np.arange(lengths.sum())
    logprobs[mask] = np.concatenate([sample.logprobs for sample in samples])
    return Forest(
        token_ids=np.concatenate(rows),
        position_ids=np.concatenate([np.arange(width) for width in widths]),
        subtree_end=ends.repeat(widths),
        parents=np.concatenate([np.arange(end - length, end) for end, length in zip(ends, lengths, strict=True)]),
        parent_temperature=np.array([sample.temperature for sample in samples]).repeat(lengths),
        edge_parent=np.arange(lengths.sum()),
        edge_token=np.concatenate([sample.tokens for sample in samples]),
        completion_edges=edges,
        mask=mask,
        sampler_logprobs=logprobs,
        weights=np.ones(len(samples), np.float32),
        advantages=np.array([sample.advantage for sample in samples]),
    )
