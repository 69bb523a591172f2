"""Token trees as plainly as can be, node by node and bin by bin: what `trainer.update.forest` is measured against."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trainer.signal.advantages import Lesson
from trainer.update.forest import EMPTY_FOREST, Batch, Forest

Scalar = TypeVar("Scalar", bound=np.generic)


def pack(lessons: Sequence[Lesson], ranks: int, micro_batch_tokens: int) -> Batch:
    """The batch of a step: `lessons` as forests of at most `micro_batch_tokens` nodes, balanced over `ranks`.

    A group stays in one forest unless its own tree is larger than that; then its completions are spread over
    several, each with the prompt again. (A single completion larger than that gets a forest to itself.) There
    are as few micro-batches as fit. Completions outside the loss are in no forest. The result depends on nothing
    but the arguments.
    """
    if not lessons:
        raise ValueError("A batch needs at least one lesson: skip the update of a step without any.")
    parts = [part for lesson in lessons for part in _split(lesson, micro_batch_tokens)]
    bins = _balance(parts, ranks, micro_batch_tokens)
    forests = [plant(part_bin) if part_bin else EMPTY_FOREST for part_bin in bins]
    micro_batches = [forests[start : start + ranks] for start in range(0, len(forests), ranks)]
    for every_other in micro_batches[1::2]:  # or one rank would get the largest of each
        every_other.reverse()
    return Batch(
        forests=tuple(zip(*micro_batches, strict=True)),
        num_samples=sum(lesson.scored.group.num_generations for lesson in lessons),
        num_tokens=sum(_tokens(lesson) for lesson in lessons),
        tree_tokens=sum(len(forest.token_ids) for forest in forests if forest is not EMPTY_FOREST),
        dense_tokens=sum(
            _samples(lesson) * len(lesson.scored.group.prompt.token_ids) + _tokens(lesson) for lesson in lessons
        ),
    )


@dataclass(frozen=True)
class Part:
    """Some completions of a lesson's group that go into one forest.

    completions: indices into the group's completions, in the order of their token ids.
    own_nodes: nodes that no other part shares: the last prompt token and the completions' tokens but the
        leaves.
    """

    lesson: Lesson
    completions: tuple[int, ...]
    own_nodes: int

    @property
    def prompt(self) -> tuple[int, ...]:
        """Token ids of the prompt."""
        return self.lesson.scored.group.prompt.token_ids

    @property
    def nodes(self) -> int:
        """Nodes of the part in a forest of its own."""
        return len(self.prompt) - 1 + self.own_nodes


def plant(parts: Iterable[Part]) -> Forest:
    """The forest of `parts`. Walking sequences in sorted order visits the nodes of their tree depth first."""
    layout = _Layout()
    edges: dict[tuple[int, int], int] = {}  # (parent node, token) -> edge
    parents: dict[int, tuple[int, float]] = {}  # node -> (index, temperature)
    rows: list[list[int]] = []  # the edges of each completion
    logprobs, weights, advantages = [], [], []

    previous_prompt: tuple[int, ...] = ()
    for part in sorted(parts, key=lambda part: part.prompt):
        group = part.lesson.scored.group
        shared = _shared(previous_prompt[:-1], part.prompt[:-1])
        layout.walk(shared, part.prompt[shared:])
        previous_prompt, previous_tokens = part.prompt, ()
        for index in part.completions:
            completion = group.completions[index]
            tokens = tuple(completion.token_ids.tolist())
            shared = _shared(previous_tokens[:-1], tokens[:-1])
            layout.walk(len(part.prompt) + shared, tokens[shared:-1])
            path = layout.open_nodes[len(part.prompt) - 1 :]
            for node in path:
                parents.setdefault(node, (len(parents), group.temperature))
            rows.append([edges.setdefault(edge, len(edges)) for edge in zip(path, tokens, strict=True)])
            logprobs.append(completion.logprobs)
            weights.append(part.lesson.weights[index])
            advantages.append(part.lesson.advantages[index])
            previous_tokens = tokens
    layout.walk(0, ())

    return Forest(
        token_ids=np.array(layout.token_ids, np.int64),
        position_ids=np.array(layout.depths, np.int64),
        subtree_end=np.array(layout.subtree_end, np.int64),
        parents=np.array(list(parents), np.int64),
        parent_temperature=np.array([temperature for _, temperature in parents.values()], np.float32),
        edge_parent=np.array([parents[node][0] for node, _ in edges], np.int64),
        edge_token=np.array([token for _, token in edges], np.int64),
        completion_edges=_padded(rows, np.int64),
        mask=_padded([[True] * len(row) for row in rows], np.bool_),
        sampler_logprobs=_padded(logprobs, np.float32),
        weights=np.array(weights, np.float32),
        advantages=np.array(advantages, np.float32),
    )


class _Layout:
    """Nodes in depth-first order, grown one path at a time.

    open_nodes: the nodes of the current path, root first; the subtrees of all others are complete.
    """

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.depths: list[int] = []
        self.subtree_end: list[int] = []
        self.open_nodes: list[int] = []

    def walk(self, depth: int, tokens: Iterable[int]) -> None:
        """Keep the first `depth` nodes of the path, close the others, and go on along `tokens`."""
        for node in self.open_nodes[depth:]:
            self.subtree_end[node] = len(self.token_ids)
        del self.open_nodes[depth:]
        for token in tokens:
            self.depths.append(len(self.open_nodes))
            self.open_nodes.append(len(self.token_ids))
            self.token_ids.append(token)
            self.subtree_end.append(-1)


def _samples(lesson: Lesson) -> int:
    return sum(one.count for one, taken in zip(lesson.scored.group.completions, lesson.in_loss, strict=True) if taken)


def _tokens(lesson: Lesson) -> int:
    completions = zip(lesson.scored.group.completions, lesson.in_loss, strict=True)
    return sum(one.count * len(one.token_ids) for one, taken in completions if taken)


def _split(lesson: Lesson, limit: int) -> list[Part]:
    """What of the lesson is in the loss, in as few parts as have at most `limit` nodes each, neighbours in token
    order together."""
    group = lesson.scored.group
    tokens = [tuple(completion.token_ids.tolist()) for completion in group.completions]
    if not group.prompt.token_ids or not all(tokens):
        raise ValueError(f"Prompt {group.prompt.id!r} or one of its completions has no tokens.")
    if not lesson.weights.any():
        raise ValueError(f"No completion of prompt {group.prompt.id!r} takes part in the loss: it is no lesson.")
    parts: list[Part] = []
    chosen: list[int] = []
    nodes = 1
    for index in sorted(np.flatnonzero(lesson.weights).tolist(), key=lambda index: tokens[index]):
        shared = _shared(tokens[chosen[-1]][:-1], tokens[index][:-1]) if chosen else 0
        added = len(tokens[index]) - 1 - shared
        if chosen and len(group.prompt.token_ids) - 1 + nodes + added > limit:
            parts.append(Part(lesson, tuple(chosen), nodes))
            chosen, nodes, added = [], 1, len(tokens[index]) - 1
        chosen.append(index)
        nodes += added
    return [*parts, Part(lesson, tuple(chosen), nodes)]


def _balance(parts: Sequence[Part], ranks: int, limit: int) -> list[list[Part]]:
    """`parts` in the smallest multiple of `ranks` bins of at most `limit` nodes: largest part first, each
    into the bin that is smallest with it. The largest bins come first."""
    largest_first = sorted(parts, key=lambda part: part.nodes, reverse=True)
    limit = max(limit, largest_first[0].nodes)

    @cache
    def shared(left: tuple[int, ...], right: tuple[int, ...]) -> int:
        return _shared(left[:-1], right[:-1])

    fewest = -(-sum(part.own_nodes for part in parts) // (limit * ranks))
    for micro_batches in range(fewest, len(parts) + 1):
        bins: list[list[Part]] = [[] for _ in range(ranks * micro_batches)]
        prompts: list[set[tuple[int, ...]]] = [set() for _ in bins]
        sizes = [0] * len(bins)
        for part in largest_first:
            # A forest that has a prompt with the same beginning has these nodes already.
            grown = [
                size + part.nodes - max((shared(part.prompt, other) for other in others), default=0)
                for size, others in zip(sizes, prompts, strict=True)
            ]
            smallest = grown.index(min(grown))
            bins[smallest].append(part)
            prompts[smallest].add(part.prompt)
            sizes[smallest] = grown[smallest]
        if max(sizes) <= limit:
            break
    return [bins[index] for index in sorted(range(len(bins)), key=lambda index: -sizes[index])]


def _shared(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common prefix."""
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))


def _padded(rows: Sequence[ArrayLike], dtype: type[Scalar]) -> NDArray[Scalar]:
    """[rows, longest row], zero at padding."""
    arrays = [np.asarray(row, dtype) for row in rows]
    padded = np.zeros((len(arrays), max(map(len, arrays))), dtype)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return padded
