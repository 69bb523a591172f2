"""Parts: the completions of a lesson, sorted, as they go into one forest or into several."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, compress, pairwise

import numpy as np
from numpy.typing import NDArray

from trainer.signal.advantages import Lesson
from trainer.update.rows import joined_rows, ranges, shared_nodes, shared_prefixes, sums_before, sums_until

CHUNK_TOKENS = 1 << 18
"""Completion tokens that are sorted and compared at once."""


@dataclass(frozen=True)
class Part:
    """Some completions of a lesson's group that go into one forest: C of them in the order of their token ids, with N
    tokens in all.

    token_ids: [N], one completion after another.
    logprobs: [N], what the engine reported for each token.
    lengths: [C] int64, tokens of each completion.
    shared: [C] int64, how many of its first tokens each has in common with the one before it; 0 for the first.
    weights: [C] how many samples each completion stands for.
    advantages: [C].
    own_nodes: nodes that no other part shares: the last prompt token and the completions' tokens but the
        leaves.
    """

    lesson: Lesson
    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    lengths: NDArray[np.int64]
    shared: NDArray[np.int64]
    weights: NDArray[np.float64]
    advantages: NDArray[np.float64]
    own_nodes: int

    @property
    def prompt(self) -> tuple[int, ...]:
        """Token ids of the prompt."""
        return self.lesson.scored.group.prompt.token_ids

    @property
    def nodes(self) -> int:
        """Nodes of the part in a forest of its own."""
        return len(self.prompt) - 1 + self.own_nodes


def split(lessons: Sequence[Lesson], limit: int) -> list[Part]:
    """What of each lesson is in the loss, in as few parts as have at most `limit` nodes each, neighbours in token
    order together. Raises ValueError: a lesson has no tokens, or nothing in the loss."""
    return [part for some in _chunks(lessons) for part in _split_chunk(some, limit)]


def _chunks(lessons: Sequence[Lesson]) -> Iterator[list[Lesson]]:
    """`lessons` in their order, so many at once that NumPy's cost per call hardly counts and its temporary arrays fit
    into a cache."""
    chunk: list[Lesson] = []
    tokens = 0
    for lesson in lessons:
        _check(lesson)
        chunk.append(lesson)
        tokens += int(lesson.scored.group.lengths.sum())
        if tokens >= CHUNK_TOKENS:
            yield chunk
            chunk, tokens = [], 0
    if chunk:
        yield chunk


def _check(lesson: Lesson) -> None:
    """Raises ValueError: there is nothing to learn from."""
    prompt = lesson.scored.group.prompt
    if not prompt.token_ids or not lesson.scored.group.lengths.all():
        raise ValueError(f"Prompt {prompt.id!r} or one of its completions has no tokens.")
    if not lesson.weights.any():
        raise ValueError(f"No completion of prompt {prompt.id!r} takes part in the loss: it is no lesson.")


def _split_chunk(lessons: Sequence[Lesson], limit: int) -> list[Part]:
    """What of each lesson is in the loss, in as few parts as have at most `limit` nodes each, neighbours in token
    order together."""
    groups = [lesson.scored.group for lesson in lessons]
    weights = np.concatenate([lesson.weights for lesson in lessons])
    taking_part = weights > 0
    completions = list(compress(chain.from_iterable(group.completions for group in groups), taking_part.tolist()))
    ends = np.cumsum(taking_part)[np.cumsum([len(group.completions) for group in groups]) - 1].tolist()
    starts = [0, *ends[:-1]]

    lengths = np.concatenate([group.lengths for group in groups])[taking_part]
    size = int(lengths.sum())
    token_ids = joined_rows([completion.token_ids for completion in completions], np.int32, size)
    logprobs = joined_rows([completion.logprobs for completion in completions], np.float32, size)
    order = _token_order(token_ids, lengths, ends)
    in_order = ranges(sums_before(lengths)[order], lengths[order])
    token_ids, logprobs, lengths = token_ids[in_order], logprobs[in_order], lengths[order]
    weights = weights[taking_part][order]
    advantages = np.concatenate([lesson.advantages for lesson in lessons])[taking_part][order]
    shared = shared_prefixes(token_ids, lengths)
    shared[starts] = 0

    nodes = sums_until(lengths - 1 - shared_nodes(shared, lengths))
    token = sums_until(lengths)
    parts = []
    for lesson, group, start, end in zip(lessons, groups, starts, ends, strict=True):
        while start < end:
            # The first completion has a node for each token (the last prompt token, and all but the leaf), and others
            # only add to them: completions up to `stop` have nodes[stop] - saved.
            saved = nodes[start + 1] - (token[start + 1] - token[start])
            room = limit - (len(group.prompt.token_ids) - 1)
            stop = bisect_right(nodes, room + saved, start + 2, end + 1) - 1
            shared[start] = 0
            some, tokens = slice(start, stop), slice(token[start], token[stop])
            parts.append(
                Part(
                    lesson,
                    token_ids[tokens],
                    logprobs[tokens],
                    lengths[some],
                    shared[some],
                    weights[some],
                    advantages[some],
                    own_nodes=nodes[stop] - saved,
                )
            )
            start = stop
    return parts


def _token_order(token_ids: NDArray[np.int32], lengths: NDArray[np.int64], ends: Sequence[int]) -> NDArray[np.int64]:
    """[completions] indices of the completions, each group's (one ends where the next begins) sorted by token ids, a
    prefix before what goes on.

    Numbers with the highest byte first compare like the bytes that they consist of, and bytes are compared at once,
    however much two completions share.
    """
    raw = token_ids.astype(">u4").tobytes()
    keys = [raw[start:stop] for start, stop in pairwise(sums_until(4 * lengths))]
    order: list[int] = []
    for start, end in pairwise([0, *ends]):
        order += sorted(range(start, end), key=keys.__getitem__)
    return np.array(order)
