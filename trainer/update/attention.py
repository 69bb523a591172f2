"""Attention over token trees: each node sees its ancestors and itself, `kv <= q < subtree_end[kv]`.

A mask over all pairs of nodes would cost the square of the forest's size, however little its branches share. So
on a CPU the nodes are taken in chunks: all that a chunk sees lies in it or on the path from the root to its first
node. On a GPU FlexAttention skips blocks that nobody sees.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

IMPLEMENTATION = "token_tree"
"""Its name among transformers' attention implementations. Without a tree it is `sdpa`."""

CHUNK_NODES = 128

Attend = Callable[[Tensor, Tensor, Tensor, float | None, int | None], Tensor]
"""(query [1, heads, T, size], key, value [1, key heads, T, size], scale, window) -> [1, heads, T, size].

scale: of the scores, None for 1 / sqrt(size). window: how many tokens up the path a node sees, None for all."""


def attend_to(subtree_end: Tensor, position_ids: Tensor) -> Attend:
    """Attention over the forest with these fields of `Forest`, on their device."""
    if subtree_end.is_cuda:
        return Flex(subtree_end, position_ids, torch.compile(flex_attention))
    return Chunked(subtree_end, position_ids)


@dataclass(frozen=True)
class Chunk:
    """`CHUNK_NODES` nodes in a row, or fewer at the end.

    above: [A] the nodes before the chunk that some node of it sees.
    visible: [nodes, A + nodes] bool, whether a node of the chunk sees one above or one of the chunk.
    distance: [nodes, A + nodes] how far up the path that is, where it is visible.
    """

    above: Tensor
    visible: Tensor
    distance: Tensor

    @classmethod
    def of(cls, subtree_end: Tensor, position_ids: Tensor, start: int) -> "Chunk":
        """The chunk that begins at node `start`."""
        # What a node of the chunk sees before it has `start`, which lies between, in its subtree.
        above = torch.nonzero(subtree_end[:start] > start)[:, 0]
        own = torch.arange(start, min(start + CHUNK_NODES, len(subtree_end)))
        keys = torch.cat([above, own])
        visible = (keys <= own[:, None]) & (own[:, None] < subtree_end[keys])
        return cls(above, visible, position_ids[own][:, None] - position_ids[keys])


class Chunked:
    """`Attend` by one scaled dot product after another."""

    def __init__(self, subtree_end: Tensor, position_ids: Tensor) -> None:
        starts = range(0, len(subtree_end), CHUNK_NODES)
        self.chunks = tuple(Chunk.of(subtree_end, position_ids, start) for start in starts)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None, window: int | None) -> Tensor:
        parts = zip(
            self.chunks,
            query.split(CHUNK_NODES, dim=2),
            self._seen(key, query),
            self._seen(value, query),
            strict=True,
        )
        attended = [
            scaled_dot_product_attention(
                chunk_query,
                keys,
                values,
                attn_mask=chunk.visible if window is None else chunk.visible & (chunk.distance < window),
                scale=scale,
            )
            for chunk, chunk_query, keys, values in parts
        ]
        return torch.cat(attended, dim=2)

    def _seen(self, states: Tensor, query: Tensor) -> list[Tensor]:
        """Keys or values for each chunk. (One gather for all chunks: autograd adds up one tensor of all nodes for
        each.)"""
        states = _one_for_each_head(states, query)
        above = states[:, :, torch.cat([chunk.above for chunk in self.chunks])]
        return [
            torch.cat(parts, dim=2)
            for parts in zip(
                above.split([len(chunk.above) for chunk in self.chunks], dim=2),
                states.split(CHUNK_NODES, dim=2),
                strict=True,
            )
        ]


class Flex:
    """`Attend` by `flex_attention`, compiled where it can be."""

    def __init__(self, subtree_end: Tensor, position_ids: Tensor, flex: Callable[..., Any]) -> None:
        self._subtree_end = subtree_end
        self._position_ids = position_ids
        self._flex = flex
        self._mask = cache(self._block_mask)  # one for all layers of a kind

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None, window: int | None) -> Tensor:
        key, value = (_one_for_each_head(states, query) for states in (key, value))
        attended: Tensor = self._flex(query, key, value, block_mask=self._mask(window), scale=scale)
        return attended

    def _block_mask(self, window: int | None) -> BlockMask:
        subtree_end, position_ids = self._subtree_end, self._position_ids

        def sees(batch: Tensor, head: Tensor, q: Tensor, kv: Tensor) -> Tensor:
            visible = (kv <= q) & (q < subtree_end[kv])
            return visible if window is None else visible & (position_ids[q] - position_ids[kv] < window)

        size = len(subtree_end)
        return create_block_mask(sees, None, None, size, size, device=subtree_end.device)


def _one_for_each_head(states: Tensor, query: Tensor) -> Tensor:
    """Keys or values of grouped-query attention, once for every query head."""
    return states.repeat_interleave(query.shape[1] // states.shape[1], dim=1)


def _forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    attend: Attend | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers' layers call; `attend` comes with the model's own keyword arguments."""
    if attend is None:
        attended: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return attended
    return attend(query, key, value, scaling, sliding_window).transpose(1, 2).contiguous(), None


AttentionInterface.register(IMPLEMENTATION, _forward)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
