"""Attention over token trees, against a mask over all pairs of nodes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention

from tests.equivalence.dense import lessons
from trainer.signal.advantages import Lesson
from trainer.update import attention
from trainer.update.forest import Forest, pack

HEADS, KEY_HEADS, SIZE = 4, 2, 8
WINDOWS = [None, 3]


def states(nodes: int, heads: int) -> Tensor:
    return torch.randn(1, heads, nodes, SIZE, dtype=torch.float64, requires_grad=True)


def sees(forest: Forest, window: int | None) -> Tensor:
    """[T, T], node by node: the node and its ancestors, found by walking back through smaller depths."""
    seen = torch.zeros(len(forest.token_ids), len(forest.token_ids), dtype=torch.bool)
    for node, depth in enumerate(forest.position_ids.tolist()):
        wanted, ancestor = depth, node
        while wanted >= 0 and (window is None or depth - wanted < window):
            if forest.position_ids[ancestor] == wanted:
                seen[node, ancestor] = True
                wanted -= 1
            ancestor -= 1
    return seen


def forest_of(some: list[Lesson]) -> Forest:
    return pack(some, ranks=1, micro_batch_tokens=10_000).forests[0][0]


@settings(max_examples=25, derandomize=True)
@given(some=lessons(), window=st.sampled_from(WINDOWS), chunk_nodes=st.sampled_from([1, 2, 5, 256]))
def test_chunks_see_what_the_tree_says(some: list[Lesson], window: int | None, chunk_nodes: int) -> None:
    forest = forest_of(some)
    nodes = len(forest.token_ids)
    query, key, value = states(nodes, HEADS), states(nodes, KEY_HEADS), states(nodes, KEY_HEADS)
    weights = torch.randn(1, HEADS, nodes, SIZE, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "CHUNK_NODES", chunk_nodes)
        attend = attention.attend_to(torch.tensor(forest.subtree_end), torch.tensor(forest.position_ids))
        ours = attend(query, key, value, 0.3, window)
    theirs = scaled_dot_product_attention(
        query,
        key.repeat_interleave(HEADS // KEY_HEADS, 1),
        value.repeat_interleave(HEADS // KEY_HEADS, 1),
        attn_mask=sees(forest, window),
        scale=0.3,
    )
    gradients = [torch.autograd.grad((out * weights).sum(), (query, key, value)) for out in (ours, theirs)]
    assert torch.allclose(ours, theirs, atol=1e-12)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(*gradients, strict=True))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@settings(max_examples=10, derandomize=True)
@given(some=lessons(), window=st.sampled_from(WINDOWS))
def test_flex_attention_sees_the_same(some: list[Lesson], window: int | None) -> None:
    """Without its compiler, which on a CPU knows no backward pass."""
    forest = forest_of(some)
    nodes = len(forest.token_ids)
    tree = torch.tensor(forest.subtree_end), torch.tensor(forest.position_ids)
    with torch.no_grad():
        query, key, value = (states(nodes, heads).detach() for heads in (HEADS, KEY_HEADS, KEY_HEADS))
        flexed = attention.Flex(*tree, flex_attention)(query, key, value, 0.3, window)
        assert torch.allclose(flexed, attention.Chunked(*tree)(query, key, value, 0.3, window), atol=1e-12)


def test_what_a_chunk_holds_grows_with_what_it_sees_and_not_with_the_forest() -> None:
    """A thousand branches of three nodes after a prompt of four."""
    branches, nodes = 1000, 4 + 3 * 1000
    subtree_end = np.full(nodes, nodes)
    for start in range(4, nodes, 3):
        subtree_end[start : start + 3] = start + 3
    depths = np.concatenate([np.arange(4), np.tile([4, 5, 6], branches)])
    chunked = attention.Chunked(torch.tensor(subtree_end), torch.tensor(depths))
    assert max(len(chunk.above) for chunk in chunked.chunks) <= 4 + 2
    assert sum(chunk.visible.shape[0] for chunk in chunked.chunks) == nodes
