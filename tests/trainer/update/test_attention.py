"""Attention over token trees, against a mask over all pairs of nodes."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.backends.registry import lookup_backend
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


def result_and_gradients(attend: attention.Attend, nodes: int, window: int | None) -> list[Tensor]:
    torch.manual_seed(0)
    given = [states(nodes, heads) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]
    out = attend(given[0], given[1], given[2], 0.3, window)
    return [out, *torch.autograd.grad(out.sin().sum(), given)]


@pytest.fixture
def flex_on_cpu() -> Iterator[None]:
    """FlexAttention refuses gradients on a CPU, for want of a kernel: without one it has them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.attention.flex_attention, "_validate_device", lambda *_: None)
        yield


def chain_with_leaves(nodes: int) -> tuple[Tensor, Tensor]:
    """A path of half the nodes, the others below its end."""
    path = nodes - nodes // 2
    ends = torch.tensor([nodes] * path + list(range(path + 1, nodes + 1)))
    return ends, torch.tensor([*range(path), *[path] * (nodes - path)])


@pytest.mark.usefixtures("flex_on_cpu")
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@settings(max_examples=15, derandomize=True, deadline=None)
@given(some=lessons(), window=st.sampled_from(WINDOWS))
def test_flex_attention_sees_the_same(some: list[Lesson], window: int | None) -> None:
    forest = forest_of(some)
    tree = torch.tensor(forest.subtree_end), torch.tensor(forest.position_ids)
    flexed, chunked = (
        result_and_gradients(attend, len(forest.token_ids), window)
        for attend in (attention.Flex(*tree, flex_attention), attention.Chunked(*tree))
    )
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(flexed, chunked, strict=True))


@pytest.mark.usefixtures("flex_on_cpu")
@pytest.mark.parametrize("window", WINDOWS)
def test_flex_attention_is_compiled_once_for_all_lengths(window: int | None) -> None:
    """Once for the first and once for any other. After eight times torch would no longer compile, and take memory for
    all pairs."""
    torch._dynamo.reset()
    compilations = []

    def counting(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        compilations.append(graph)
        return lookup_backend("aot_eager")(graph, inputs)

    compiled = torch.compile(flex_attention, backend=counting)
    for nodes in (300, 1, 7, 127, 128, 129, 256, 257, 640, 1000):
        tree = chain_with_leaves(nodes)
        flexed, chunked = (
            result_and_gradients(attend, nodes, window)
            for attend in (attention.Flex(*tree, compiled), attention.Chunked(*tree))
        )
        assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(flexed, chunked, strict=True)), nodes
    assert 1 <= len(compilations) <= 2


def seen_blocks(flex: attention.Flex, window: int | None) -> tuple[Tensor, Tensor]:
    """[blocks, blocks] those that are taken with the mask, and without."""
    mask = flex._block_mask(window)
    assert mask.full_kv_num_blocks is not None
    assert mask.full_kv_indices is not None
    tables = ((mask.kv_num_blocks, mask.kv_indices), (mask.full_kv_num_blocks, mask.full_kv_indices))
    found = []
    for numbers, indices in tables:
        table = torch.zeros(indices.shape[2:], dtype=torch.bool)
        for row, number in enumerate(numbers[0, 0].tolist()):
            table[row, indices[0, 0, row, :number].long()] = True
        found.append(table)
    return found[0], found[1]


@settings(max_examples=50, derandomize=True, deadline=None)
@given(some=lessons(), window=st.sampled_from(WINDOWS), size=st.sampled_from([1, 2, 4]))
def test_a_block_is_left_out_where_nobody_sees_and_unmasked_where_everybody_does(
    some: list[Lesson], window: int | None, size: int
) -> None:
    forest = forest_of(some)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "BLOCK_NODES", size)
        flex = attention.Flex(torch.tensor(forest.subtree_end), torch.tensor(forest.position_ids), flex_attention)
        masked, unmasked = seen_blocks(flex, window)
    visible = torch.eye(len(masked) * size, dtype=torch.bool)  # what is filled up sees itself
    nodes = len(forest.token_ids)
    visible[:nodes, :nodes] = sees(forest, window)
    blocks = visible.view(len(masked), size, len(masked), size)
    assert not (masked & unmasked).any()
    assert not (blocks.any(3).any(1) & ~masked & ~unmasked).any()
    assert not (unmasked & ~blocks.all(3).all(1)).any()
    if window is None:  # nearest and farthest of two blocks need not be of one path
        assert torch.equal(masked | unmasked, blocks.any(3).any(1))
        assert torch.equal(unmasked, blocks.all(3).all(1) & ~torch.eye(len(masked), dtype=torch.bool))


def test_blocks_of_a_large_forest_need_no_table_of_all_pairs() -> None:
    """Of 131,072 nodes that would be 16 GiB."""
    nodes = 1 << 17
    subtree_end = torch.arange(1, nodes + 1)
    subtree_end[:1000] = nodes
    masked, unmasked = seen_blocks(
        attention.Flex(subtree_end, torch.arange(nodes).clamp(max=1000), flex_attention), None
    )
    assert masked.shape == (nodes // 128,) * 2
    assert unmasked.sum() == sum(range(1, 7)) + 7 * (1024 - 7)
    assert masked.sum() == 1024 + (1024 - 8)


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
