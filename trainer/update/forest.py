"""Token trees: a batch in which every distinct token is computed once.

The groups of a micro-batch are laid out as one forest. Prompts share their common prefix (chat template,
few-shot examples); the last prompt token and everything after it belong to one group alone, so that groups
with another temperature, or the same prompt, never mix. A completion's last token predicts nothing and is no
node, only an edge.

In depth-first order a node attends to exactly its ancestors and itself: `kv <= q < subtree_end[kv]`, with
depth as position id. Everything here is exact: the same log-probabilities and gradients as one row per
sample.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.signal.advantages import Lesson
from trainer.signal.step_size import WHOLE, StepSize
from trainer.update.balance import balance
from trainer.update.parts import Part, split
from trainer.update.rows import flattened, ranges, shared_nodes, shared_prefixes, sums_before


@dataclass(frozen=True)
class Forest:
    """One micro-batch. T nodes, P parents, E edges, C completions of at most L tokens.

    token_ids: [T] int64, nodes in depth-first order.
    position_ids: [T] int64, depth of each node, 0 for a prompt's first token.
    subtree_end: [T] int64, one past the last node below this one.
    parents: [P] int64, the nodes that some completion's token follows: logits are needed here only.
    parent_temperature: [P] float32, what the group was sampled at.
    edge_parent: [E] int64, index into `parents`.
    edge_token: [E] int64, token id that follows the parent; (parent, token) pairs are distinct.
    completion_edges: [C, L] int64, index into the edges of each token; 0 at padding.
    mask: [C, L] bool, true at tokens.
    sampler_logprobs: [C, L] float32, what the engine reported for each token; 0 at padding, NaN where it was not
        sampled now but replayed (trainer/signal/self_imitation.py).
    weights: [C] float32, how many samples each completion stands for.
    advantages: [C] float32.
    """

    token_ids: NDArray[np.int64]
    position_ids: NDArray[np.int64]
    subtree_end: NDArray[np.int64]
    parents: NDArray[np.int64]
    parent_temperature: NDArray[np.float32]
    edge_parent: NDArray[np.int64]
    edge_token: NDArray[np.int64]
    completion_edges: NDArray[np.int64]
    mask: NDArray[np.bool_]
    sampler_logprobs: NDArray[np.float32]
    weights: NDArray[np.float32]
    advantages: NDArray[np.float32]


@dataclass(frozen=True)
class Batch:
    """One update's work.

    forests: [rank][micro-batch]; every rank has equally many, filled up with `EMPTY_FOREST`. Forests at the
        same place are of similar size.
    num_samples: samples that the whole batch stands for, those that take no part in the loss too.
    num_tokens: completion tokens that it stands for in the loss. Losses of every rank and micro-batch divide by one
        of the two.
    tree_tokens: nodes over all forests but the empty ones: tokens that the model processes.
    dense_tokens: tokens that one row per sample that takes part in the loss would process, padding not counted.
    step_size: how far the update goes.
    """

    forests: tuple[tuple[Forest, ...], ...]
    num_samples: int
    num_tokens: int
    tree_tokens: int
    dense_tokens: int
    step_size: StepSize = WHOLE


EMPTY_FOREST = Forest(
    token_ids=np.zeros(1, np.int64),
    position_ids=np.zeros(1, np.int64),
    subtree_end=np.ones(1, np.int64),
    parents=np.zeros(1, np.int64),
    parent_temperature=np.ones(1, np.float32),
    edge_parent=np.zeros(1, np.int64),
    edge_token=np.zeros(1, np.int64),
    completion_edges=np.zeros((0, 1), np.int64),
    mask=np.zeros((0, 1), np.bool_),
    sampler_logprobs=np.zeros((0, 1), np.float32),
    weights=np.zeros(0, np.float32),
    advantages=np.zeros(0, np.float32),
)
"""One node, no completion: costs almost nothing, and its gradients are zero."""

EXAMPLE_FOREST = Forest(  # EXAMPLE_LESSON: a prompt of 5 tokens, and the completions (10539, 2) and (3706, 2)
    token_ids=np.array([1, 4093, 198, 3706, 216, 3706, 10539]),
    position_ids=np.array([0, 1, 2, 3, 4, 5, 5]),
    subtree_end=np.array([7, 7, 7, 7, 7, 6, 7]),
    parents=np.array([4, 5, 6]),
    parent_temperature=np.array([1.0, 1.0, 1.0], np.float32),
    edge_parent=np.array([0, 1, 0, 2]),
    edge_token=np.array([3706, 2, 10539, 2]),
    completion_edges=np.array([[0, 1], [2, 3]]),
    mask=np.ones((2, 2), np.bool_),
    sampler_logprobs=np.array([[-1.4, -0.1], [-0.3, -0.1]], np.float32),
    weights=np.array([32, 96], np.float32),
    advantages=np.array([-1.73178, 0.57726], np.float32),
)


def pack(lessons: Sequence[Lesson], ranks: int, micro_batch_tokens: int) -> Batch:
    """The batch of a step: `lessons` as forests of at most `micro_batch_tokens` nodes, balanced over `ranks`.

    A group stays in one forest unless its own tree is larger than that; then its completions are spread over
    several, each with the prompt again. (A single completion larger than that gets a forest to itself.) There
    are as few micro-batches as fit. Completions outside the loss are in no forest. The result depends on nothing
    but the arguments.
    """
    if not lessons:
        raise ValueError("A batch needs at least one lesson: skip the update of a step without any.")
    parts = split(lessons, micro_batch_tokens)
    bins = balance(parts, ranks, micro_batch_tokens)
    forests = [plant(part_bin) if part_bin else EMPTY_FOREST for part_bin in bins]
    micro_batches = [forests[start : start + ranks] for start in range(0, len(forests), ranks)]
    for every_other in micro_batches[1::2]:  # or one rank would get the largest of each
        every_other.reverse()
    return Batch(
        forests=tuple(zip(*micro_batches, strict=True)),
        num_samples=round(sum(lesson.num_samples for lesson in lessons)),
        num_tokens=round(sum(lesson.num_tokens for lesson in lessons)),
        tree_tokens=sum(len(forest.token_ids) for forest in forests if forest is not EMPTY_FOREST),
        dense_tokens=sum(lesson.dense_tokens for lesson in lessons),
    )


def plant(parts: Iterable[Part]) -> Forest:
    """The forest of `parts`. Walking sequences in sorted order visits the nodes of their tree depth first.

    So each of the C completions, and each of the Q parts' prompts without the last token, is a row that keeps the
    first nodes of the row before it, as far as both have the same tokens, and adds its others behind all that are
    there. A part's nodes are those that its prompt adds, then its parents: the last prompt token, and what its
    completions add.
    """
    parts = sorted(parts, key=lambda part: part.prompt)
    prompts = [part.prompt for part in parts]
    beginnings, depths = flattened([prompt[:-1] for prompt in prompts])
    kept_of_prompt = shared_prefixes(beginnings, depths)  # [Q]
    added_of_prompt = depths - kept_of_prompt

    token_ids = np.concatenate([part.token_ids for part in parts])
    lengths = np.concatenate([part.lengths for part in parts])
    shared = np.concatenate([part.shared for part in parts])  # [C] edges of the row before
    rows = np.array([len(part.lengths) for part in parts])
    first = sums_before(rows)  # [Q] the first row of each part
    kept = shared_nodes(shared, lengths) + 1  # [C] parents of the row before, the last prompt token among them
    kept[first] = 0
    added = lengths - kept
    added_of_part = np.add.reduceat(added, first)
    before, parent_before = sums_before(lengths), sums_before(added)  # [C] tokens and parents of the rows before

    num_nodes = int(added_of_prompt.sum() + added.sum())
    start_of_part = sums_before(added_of_prompt + added_of_part)  # [Q] nodes before it
    start = parent_before + np.repeat(np.cumsum(added_of_prompt), rows)  # [C] nodes before the row
    start[first] = start_of_part
    of_prompts = ranges(start_of_part, added_of_prompt)
    parents = ranges(start_of_part + added_of_prompt, added_of_part)

    nodes = np.empty((3, num_nodes), np.int64)
    nodes[0, of_prompts] = beginnings[ranges(sums_before(depths) + kept_of_prompt, added_of_prompt)]
    nodes[1, of_prompts] = ranges(kept_of_prompt, added_of_prompt)
    nodes[2, of_prompts] = _ends(depths, kept_of_prompt, start_of_part, num_nodes)
    nodes[0, parents] = token_ids[ranges(before + kept - 1, added)]  # of each token its parent, the token before it,
    nodes[0, start_of_part + added_of_prompt] = [prompt[-1] for prompt in prompts]  # but for the first token's
    nodes[1, parents] = ranges(np.repeat(depths, rows) + kept, added)
    nodes[2, parents] = _ends(lengths, kept, start, num_nodes)

    new = lengths - shared  # [C] edges that the row adds
    edge_before = sums_before(new)
    edge_parent = ranges(parent_before + shared - kept, new)  # the row's own, but
    branch = np.flatnonzero((kept > shared) & (new > 0))  # here the first edge leaves a node of the row before
    mask = np.arange(lengths.max()) < lengths[:, None]
    kept_parents = _numbers(parent_before, kept, mask[:, : kept.max()])
    edge_parent[edge_before[branch]] = kept_parents[branch, shared[branch]]

    sampler_logprobs = np.zeros(mask.shape, np.float32)
    sampler_logprobs[mask] = np.concatenate([part.logprobs for part in parts])
    temperatures = np.array([part.lesson.scored.group.temperature for part in parts], np.float32)
    return Forest(
        token_ids=nodes[0],
        position_ids=nodes[1],
        subtree_end=nodes[2],
        parents=parents,
        parent_temperature=np.repeat(temperatures, added_of_part),
        edge_parent=edge_parent,
        edge_token=token_ids[ranges(before + shared, new)].astype(np.int64),
        completion_edges=_numbers(edge_before, shared, mask),
        mask=mask,
        sampler_logprobs=sampler_logprobs,
        weights=np.concatenate([part.weights for part in parts]).astype(np.float32),
        advantages=np.concatenate([part.advantages for part in parts]).astype(np.float32),
    )


def _numbers(before: NDArray[np.int64], kept: NDArray[np.int64], mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """[rows, positions] which node (or edge) a row has at each position, 0 outside of `mask`.

    before: [rows] how many all rows before have. kept: [rows] how many positions are as in the row before.
    """
    position = np.arange(mask.shape[1])
    numbers = (before - kept)[:, None] + position
    numbers *= mask
    width = kept.max()  # no row keeps anything further on
    some = numbers[:, :width]
    some *= position[:width] >= kept[:, None]
    np.maximum.accumulate(some, axis=0, out=some)  # the latest is the largest
    some *= mask[:, :width]
    return numbers


def _ends(
    lengths: NDArray[np.int64], kept: NDArray[np.int64], start: NDArray[np.int64], num_nodes: int
) -> NDArray[np.int64]:
    """[added nodes] where the subtree of each ends: at the start of the first row after it that does not keep it.

    lengths: [rows]. kept: [rows] how many nodes of the row before each has. start: [rows] nodes before the row.
    """
    ends = np.repeat(np.append(start[1:], num_nodes), lengths - kept)  # if the next row does not keep it
    position = np.arange(kept.max())  # no row keeps anything further on
    keeps = position < kept[:, None]
    ended = np.full((len(kept) + 1, len(position)), num_nodes)  # by the row or one after it
    np.copyto(ended[:-1], start[:, None], where=~keeps)
    np.minimum.accumulate(ended[::-1], axis=0, out=ended[::-1])
    row, column = np.nonzero(~keeps & (position < lengths[:, None]))
    ends[(sums_before(lengths - kept) - kept)[row] + column] = ended[row + 1, column]
    return ends
