"""Token trees: a batch in which every distinct token is computed once.

The groups of a micro-batch are laid out as one forest. Prompts share their common prefix (chat template,
few-shot examples); the last prompt token and everything after it belong to one group alone, so that groups
with another temperature, or the same prompt, never mix. A completion's last token predicts nothing and is no
node, only an edge.

In depth-first order a node attends to exactly its ancestors and itself: `kv <= q < subtree_end[kv]`, with
depth as position id. Everything here is exact: the same log-probabilities and gradients as one row per
sample.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappush, heapreplace
from itertools import chain, compress, count, pairwise
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from trainer.signal.advantages import Lesson

Scalar = TypeVar("Scalar", bound=np.generic)

CHUNK_TOKENS = 1 << 18
"""Completion tokens that are sorted and compared at once."""

ROUNDINGS = 8
"""Ways to round sizes for a lower bound of the number of bins: the k-th counts what is a bit more than 1 / (k + 1) of
a bin as 1 / k."""


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
    counts: [C] int64, samples of each completion.
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
    counts: NDArray[np.int64]
    advantages: NDArray[np.float32]


@dataclass(frozen=True)
class Batch:
    """One update's work.

    forests: [rank][micro-batch]; every rank has equally many, filled up with `EMPTY_FOREST`. Forests at the
        same place are of similar size.
    num_samples: samples in the whole batch, those that take no part in the loss too.
    num_tokens: completion tokens of all samples that take part in the loss. Losses of every rank and micro-batch
        divide by one of the two.
    tree_tokens: nodes over all forests but the empty ones: tokens that the model processes.
    dense_tokens: tokens that one row per sample would process, padding not counted.
    """

    forests: tuple[tuple[Forest, ...], ...]
    num_samples: int
    num_tokens: int
    tree_tokens: int
    dense_tokens: int


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
    counts=np.zeros(0, np.int64),
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
    counts=np.array([32, 96]),
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
    parts = [part for some, lengths in _chunks(lessons) for part in _split(some, lengths, micro_batch_tokens)]
    bins = _balance(parts, ranks, micro_batch_tokens)
    forests = [plant(part_bin) if part_bin else EMPTY_FOREST for part_bin in bins]
    micro_batches = [forests[start : start + ranks] for start in range(0, len(forests), ranks)]
    for every_other in micro_batches[1::2]:  # or one rank would get the largest of each
        every_other.reverse()
    return Batch(
        forests=tuple(zip(*micro_batches, strict=True)),
        num_samples=sum(lesson.scored.group.num_generations for lesson in lessons),
        num_tokens=sum(part.num_tokens for part in parts),
        tree_tokens=sum(len(forest.token_ids) for forest in forests if forest is not EMPTY_FOREST),
        dense_tokens=sum(part.num_samples * len(part.prompt) + part.num_tokens for part in parts),
    )


@dataclass(frozen=True)
class Part:
    """Some completions of a lesson's group that go into one forest: C of them in the order of their token ids, with N
    tokens in all.

    token_ids: [N], one completion after another.
    logprobs: [N], what the engine reported for each token.
    lengths: [C] int64, tokens of each completion.
    shared: [C] int64, how many of its first tokens each has in common with the one before it; 0 for the first.
    counts: [C] int64, samples of each completion.
    advantages: [C].
    own_nodes: nodes that no other part shares: the last prompt token and the completions' tokens but the
        leaves.
    num_samples: samples of its completions.
    num_tokens: completion tokens of its samples.
    """

    lesson: Lesson
    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    lengths: NDArray[np.int64]
    shared: NDArray[np.int64]
    counts: NDArray[np.int64]
    advantages: NDArray[np.float64]
    own_nodes: int
    num_samples: int
    num_tokens: int

    @property
    def prompt(self) -> tuple[int, ...]:
        """Token ids of the prompt."""
        return self.lesson.scored.group.prompt.token_ids

    @property
    def nodes(self) -> int:
        """Nodes of the part in a forest of its own."""
        return len(self.prompt) - 1 + self.own_nodes


def _chunks(lessons: Sequence[Lesson]) -> Iterator[tuple[list[Lesson], NDArray[np.int64]]]:
    """`lessons` in their order, so many at once that NumPy's cost per call hardly counts and its temporary arrays fit
    into a cache; with [completions] the lengths of all their completions."""
    chunk: list[Lesson] = []
    lengths: list[int] = []
    tokens = 0
    for lesson in lessons:
        chunk.append(lesson)
        lengths += _checked_lengths(lesson)
        tokens += sum(lengths[-len(lesson.scored.group.completions) :])
        if tokens >= CHUNK_TOKENS:
            yield chunk, np.array(lengths)
            chunk, lengths, tokens = [], [], 0
    if chunk:
        yield chunk, np.array(lengths)


def _checked_lengths(lesson: Lesson) -> list[int]:
    """How many tokens each completion has, if this is a lesson to learn from."""
    prompt = lesson.scored.group.prompt
    lengths = [len(completion.token_ids) for completion in lesson.scored.group.completions]
    if not prompt.token_ids or not all(lengths):
        raise ValueError(f"Prompt {prompt.id!r} or one of its completions has no tokens.")
    if not lesson.in_loss.any():
        raise ValueError(f"No completion of prompt {prompt.id!r} takes part in the loss: it is no lesson.")
    return lengths


def _split(lessons: Sequence[Lesson], all_lengths: NDArray[np.int64], limit: int) -> list[Part]:
    """What of each lesson is in the loss, in as few parts as have at most `limit` nodes each, neighbours in token
    order together.

    all_lengths: [completions] of all lessons, those that are not in the loss too.
    """
    groups = [lesson.scored.group for lesson in lessons]
    in_loss = np.concatenate([lesson.in_loss for lesson in lessons])
    completions = list(compress(chain.from_iterable(group.completions for group in groups), in_loss.tolist()))
    ends = np.cumsum(in_loss)[np.cumsum([len(group.completions) for group in groups]) - 1].tolist()
    starts = [0, *ends[:-1]]

    lengths = all_lengths[in_loss]
    size = int(lengths.sum())
    token_ids = _joined([completion.token_ids for completion in completions], np.int32, size)
    logprobs = _joined([completion.logprobs for completion in completions], np.float32, size)
    order = _token_order(token_ids, lengths, ends)
    in_order = _ranges(_before(lengths)[order], lengths[order])
    token_ids, logprobs, lengths = token_ids[in_order], logprobs[in_order], lengths[order]
    counts = np.concatenate([group.counts for group in groups])[in_loss][order]
    advantages = np.concatenate([lesson.advantages for lesson in lessons])[in_loss][order]
    shared = _shared(token_ids, lengths)
    shared[starts] = 0

    nodes = _until(lengths - 1 - _shared_nodes(shared, lengths))
    token, sample, sample_token = _until(lengths), _until(counts), _until(counts * lengths)
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
                    counts[some],
                    advantages[some],
                    own_nodes=nodes[stop] - saved,
                    num_samples=sample[stop] - sample[start],
                    num_tokens=sample_token[stop] - sample_token[start],
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
    keys = [raw[start:stop] for start, stop in pairwise(_until(4 * lengths))]
    order: list[int] = []
    for start, end in pairwise([0, *ends]):
        order += sorted(range(start, end), key=keys.__getitem__)
    return np.array(order)


def _shared(token_ids: NDArray[np.integer[Any]], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """[rows] length of the prefix that each row has in common with the one before it, 0 for the first.

    token_ids: [sum of lengths], one row after another. lengths: [rows].
    """
    shared = np.zeros(len(lengths), np.int64)
    if len(lengths) > 1:
        common = np.minimum(lengths[1:], lengths[:-1])  # only as far as both go
        token = _ranges(_before(lengths)[:-1], common)
        differ = np.flatnonzero(token_ids[token] != token_ids[token + np.repeat(lengths[:-1], common)])
        compared = _before(common)
        next_difference = np.append(differ, len(token))[np.searchsorted(differ, compared)]
        shared[1:] = np.minimum(next_difference - compared, common)
    return shared


def _shared_nodes(shared: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """[completions] how many of its nodes each has in common with the one before it: a last token has none."""
    inner = lengths - 1
    nodes = np.minimum(shared, inner)
    np.minimum(nodes[1:], inner[:-1], out=nodes[1:])
    return nodes


def _balance(parts: Sequence[Part], ranks: int, limit: int) -> list[list[Part]]:
    """`parts` in the smallest multiple of `ranks` bins of at most `limit` nodes: largest part first, each
    into the bin that is smallest with it. The largest bins come first."""
    largest_first = sorted(parts, key=lambda part: part.nodes, reverse=True)
    limit = max(limit, largest_first[0].nodes)
    prompts = _Beginnings(largest_first)
    nodes = [part.nodes for part in largest_first]
    fewest = _fewest_bins(largest_first, prompts, limit)
    attempts = (_fill(nodes, prompts, ranks * many, limit) for many in count(-(-fewest // ranks)))
    bins, sizes = next(attempt for attempt in attempts if attempt)  # with a bin for each part at the latest
    return [[largest_first[part] for part in bins[index]] for index in np.argsort(-np.array(sizes), kind="stable")]


class _Beginnings:
    """What the parts' prompts have in common but for the last token: a tree in which a node is where prompts end or
    part.

    depths: [nodes] tokens up to the node.
    above: [nodes] the node above, -1 at the root.
    leaves: [parts] the node at which each part's prompt ends.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        prompts = {id(part.lesson): part.prompt[:-1] for part in parts}  # by lesson: long ones take long to hash
        beginnings = sorted(set(prompts.values()))
        index = {beginning: node for node, beginning in enumerate(beginnings)}
        of_lesson = {lesson: index[beginning] for lesson, beginning in prompts.items()}
        self.leaves = [of_lesson[id(part.lesson)] for part in parts]
        token_ids, lengths = _flat(beginnings)
        self.depths: list[int] = lengths.tolist()
        self.above = [-1] * len(beginnings)
        path = [0]  # from the root to the latest beginning
        for node, shared in enumerate(_shared(token_ids, lengths).tolist()[1:], start=1):
            below = -1
            while path and self.depths[path[-1]] > shared:
                below = path.pop()
            if not path or self.depths[path[-1]] < shared:  # they part between two nodes
                self.above.append(path[-1] if path else -1)
                self.depths.append(shared)
                path.append(len(self.depths) - 1)
                self.above[below] = path[-1]
            self.above[node] = path[-1]
            path.append(node)
        self.root = path[0]

    def up(self, part: int) -> Iterator[int]:
        """The nodes from the end of a part's prompt to the root."""
        node = self.leaves[part]
        while node >= 0:
            yield node
            node = self.above[node]


def _fill(
    nodes: Sequence[int], prompts: _Beginnings, num_bins: int, limit: int
) -> tuple[list[list[int]], list[int]] | None:
    """The parts in each bin and the bins' sizes, each part in its turn in the bin that is smallest with it (the first
    of several); None where one grows beyond `limit`.

    A forest that has a prompt with the same beginning has these nodes already. So for each beginning there is a heap
    of the bins that have it; a part's bin is on top of one of those that its prompt runs through. Sizes only grow, so
    an outdated one does no harm until it is on top, and is corrected there.
    """
    filled = min(num_bins, len(nodes))  # nothing is smaller than an empty bin: one for each of the first parts
    bins = [[part] for part in range(filled)] + [[] for _ in range(num_bins - filled)]
    sizes = [*nodes[:filled], *[0] * (num_bins - filled)]
    heaps: list[list[tuple[int, int]]] = [[] for _ in prompts.depths]
    has = [set(prompts.up(part)) for part in range(filled)]  # the beginnings in each bin
    for index, beginnings in enumerate(has):
        for node in beginnings:
            heaps[node].append((sizes[index], index))
    for heap in heaps:
        heapify(heap)
    for part in range(filled, len(nodes)):
        smallest = (limit, num_bins)
        for node in prompts.up(part):
            heap = heaps[node]
            while heap and heap[0][0] != sizes[heap[0][1]]:
                heapreplace(heap, (sizes[heap[0][1]], heap[0][1]))
            if heap:
                smallest = min(smallest, (heap[0][0] - prompts.depths[node], heap[0][1]))
        size, index = smallest[0] + nodes[part], smallest[1]
        if size > limit:
            return None
        bins[index].append(part)
        sizes[index] = size
        for node in prompts.up(part):
            if node in has[index]:
                break  # and so are all above
            has[index].add(node)
            heappush(heaps[node], (size, index))
    return bins, sizes


def _fewest_bins(parts: Sequence[Part], prompts: _Beginnings, limit: int) -> int:
    """No way of packing needs fewer bins of `limit` nodes: trying with fewer would be in vain.

    Every bin has the beginning common to all prompts, so only what comes after it counts, and of that what no other
    part shares or, together, each node once.
    """
    common = prompts.depths[prompts.root]
    lengths = np.array(prompts.depths) - np.array(prompts.depths)[prompts.above]  # from the node above
    lengths[prompts.root] = 0
    own = np.array([part.own_nodes for part in parts])
    in_all = own.sum() + lengths.sum()
    users = np.bincount(prompts.leaves, minlength=len(lengths)) + np.bincount(
        [above for above in prompts.above if above >= 0], minlength=len(lengths)
    )
    unshared = own + np.where(users == 1, lengths, 0)[prompts.leaves]
    return max(-(-int(in_all) // (limit - common)), _least_bins(unshared, limit - common))


def _least_bins(sizes: NDArray[np.int64], capacity: int) -> int:
    """A lower bound for bin packing, by dual feasible functions (Fekete and Schepers, "New classes of fast lower
    bounds for bin packing problems", Mathematical Programming 91, 2001): sizes are so rounded that what fits into a
    bin still does, and then added up.

    What is smaller than a threshold of at most half a bin is left out, and what leaves less than it fills a bin. What
    is between is taken as it is or, for some k, stretched by (k + 1) / k and rounded down to multiples of a k-th of
    a bin, unless stretching alone makes it one.
    """
    sizes = np.sort(sizes)
    thresholds = np.append(sizes[2 * sizes <= capacity], 0)
    smallest = np.searchsorted(sizes, thresholds, side="left")
    largest = np.searchsorted(sizes, capacity - thresholds, side="right")
    best = 0
    for k in range(ROUNDINGS + 1):
        pieces = max(k, 1)  # k = 0: as it is. One bin is pieces * capacity, so that all are whole numbers
        exact = (k == 0) | ((k + 1) * sizes % capacity == 0)
        rounded = np.where(exact, pieces * sizes, (k + 1) * sizes // capacity * capacity)
        until = np.append(0, np.cumsum(rounded))
        between = -((until[smallest] - until[largest]) // (pieces * capacity))  # rounded up
        best = max(best, int((len(sizes) - largest + between).max()))
    return best


def plant(parts: Iterable[Part]) -> Forest:
    """The forest of `parts`. Walking sequences in sorted order visits the nodes of their tree depth first.

    So each of the C completions, and each of the Q parts' prompts without the last token, is a row that keeps the
    first nodes of the row before it, as far as both have the same tokens, and adds its others behind all that are
    there. A part's nodes are those that its prompt adds, then its parents: the last prompt token, and what its
    completions add.
    """
    parts = sorted(parts, key=lambda part: part.prompt)
    prompts = [part.prompt for part in parts]
    beginnings, depths = _flat([prompt[:-1] for prompt in prompts])
    kept_of_prompt = _shared(beginnings, depths)  # [Q]
    added_of_prompt = depths - kept_of_prompt

    token_ids = np.concatenate([part.token_ids for part in parts])
    lengths = np.concatenate([part.lengths for part in parts])
    shared = np.concatenate([part.shared for part in parts])  # [C] edges of the row before
    rows = np.array([len(part.lengths) for part in parts])
    first = _before(rows)  # [Q] the first row of each part
    kept = _shared_nodes(shared, lengths) + 1  # [C] parents of the row before, the last prompt token among them
    kept[first] = 0
    added = lengths - kept
    added_of_part = np.add.reduceat(added, first)
    before, parent_before = _before(lengths), _before(added)  # [C] tokens and parents of the rows before

    num_nodes = int(added_of_prompt.sum() + added.sum())
    start_of_part = _before(added_of_prompt + added_of_part)  # [Q] nodes before it
    start = parent_before + np.repeat(np.cumsum(added_of_prompt), rows)  # [C] nodes before the row
    start[first] = start_of_part
    of_prompts = _ranges(start_of_part, added_of_prompt)
    parents = _ranges(start_of_part + added_of_prompt, added_of_part)

    nodes = np.empty((3, num_nodes), np.int64)
    nodes[0, of_prompts] = beginnings[_ranges(_before(depths) + kept_of_prompt, added_of_prompt)]
    nodes[1, of_prompts] = _ranges(kept_of_prompt, added_of_prompt)
    nodes[2, of_prompts] = _ends(depths, kept_of_prompt, start_of_part, num_nodes)
    nodes[0, parents] = token_ids[_ranges(before + kept - 1, added)]  # of each token its parent, the token before it,
    nodes[0, start_of_part + added_of_prompt] = [prompt[-1] for prompt in prompts]  # but for the first token's
    nodes[1, parents] = _ranges(np.repeat(depths, rows) + kept, added)
    nodes[2, parents] = _ends(lengths, kept, start, num_nodes)

    new = lengths - shared  # [C] edges that the row adds
    edge_before = _before(new)
    edge_parent = _ranges(parent_before + shared - kept, new)  # the row's own, but
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
        edge_token=token_ids[_ranges(before + shared, new)].astype(np.int64),
        completion_edges=_numbers(edge_before, shared, mask),
        mask=mask,
        sampler_logprobs=sampler_logprobs,
        counts=np.concatenate([part.counts for part in parts]),
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
    ends[(_before(lengths - kept) - kept)[row] + column] = ended[row + 1, column]
    return ends


def _joined(rows: Sequence[NDArray[Scalar]], dtype: type[Scalar], size: int) -> NDArray[Scalar]:
    """[size] one row after another. Where rows are short, joining their bytes takes a third of the time of
    `np.concatenate`, which is left for rows of another type or with gaps."""
    try:
        joined = np.frombuffer(b"".join(cast(Sequence[bytes], rows)), dtype)  # any buffers will do
    except TypeError:  # gaps: join takes no such buffer
        joined = np.empty(0, dtype)
    return joined if len(joined) == size else np.concatenate(rows).astype(dtype)


def _flat(rows: Sequence[tuple[int, ...]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """[sum of lengths] one row after another, and [rows] their lengths."""
    lengths = np.array([len(row) for row in rows])
    return np.fromiter(chain.from_iterable(rows), np.int64, count=int(lengths.sum())), lengths


def _ranges(starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """[sum of sizes] for each start so many numbers from there on."""
    until = sizes.cumsum()
    numbers: NDArray[np.int64] = np.arange(until[-1]) + (starts - until + sizes).repeat(sizes)
    return numbers


def _before(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """[values] the sum of all before each."""
    return values.cumsum() - values


def _until(values: NDArray[np.int64]) -> list[int]:
    """[values + 1] `_before`, and the sum of all."""
    return [0, *values.cumsum().tolist()]
