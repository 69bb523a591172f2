"""Balance: which parts of a batch go into which forest."""

from collections.abc import Iterator, Sequence
from heapq import heapify, heappush, heapreplace
from itertools import count

import numpy as np
from numpy.typing import NDArray

from trainer.update.parts import Part
from trainer.update.rows import flattened, shared_prefixes

ROUNDINGS = 8
"""Ways to round sizes for a lower bound of the number of bins: the k-th counts what is a bit more than 1 / (k + 1) of
a bin as 1 / k."""


def balance(parts: Sequence[Part], ranks: int, limit: int) -> list[list[Part]]:
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
        token_ids, lengths = flattened(beginnings)
        self.depths: list[int] = lengths.tolist()
        self.above = [-1] * len(beginnings)
        path = [0]  # from the root to the latest beginning
        for node, shared in enumerate(shared_prefixes(token_ids, lengths).tolist()[1:], start=1):
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
    if sizes.sum() <= capacity:
        return 1
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
