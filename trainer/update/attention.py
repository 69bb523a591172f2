"""Attention over token trees: each node sees its ancestors and itself, `kv <= q < subtree_end[kv]`.

A mask over all pairs of nodes would cost the square of the forest's size, however little its branches share. So
on a CPU the nodes are taken in chunks: all that a chunk sees lies in it or on the path from the root to its first
node. On a GPU FlexAttention skips blocks that nobody sees, and asks of no pair in those that everybody sees.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

IMPLEMENTATION = "token_tree"
"""Its name among transformers' attention implementations. Without a tree it is `sdpa`."""

CHUNK_NODES = 128

BLOCK_NODES = 128
"""Queries and keys that FlexAttention takes or skips together; `flex_attention`'s own choice."""

Attend = Callable[[Tensor, Tensor, Tensor, float | None, int | None], Tensor]
"""(query [1, heads, T, size], key, value [1, key heads, T, size], scale, window) -> [1, heads, T, size].

scale: of the scores, None for 1 / sqrt(size). window: how many tokens up the path a node sees, None for all."""


def attend_to(subtree_end: Tensor, position_ids: Tensor) -> Attend:
    """Attention over the forest with these fields of `Forest`, on their device."""
    if subtree_end.is_cuda:
        return Flex(subtree_end, position_ids, _compiled())
    return Chunked(subtree_end, position_ids)


@cache
def _compiled() -> Callable[..., Any]:
    """`flex_attention` for all forests: from the second length on it is compiled for any."""
    return torch.compile(flex_attention)


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
        states = states.repeat_interleave(query.shape[1] // states.shape[1], dim=1)  # once for every query head
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
    """`Attend` by `flex_attention`, compiled where it can be.

    Nodes are filled up to whole blocks with some that see themselves alone; to two blocks at least, since torch
    compiles a size of 1 for itself.
    """

    def __init__(self, subtree_end: Tensor, position_ids: Tensor, flex: Callable[..., Any]) -> None:
        nodes = len(subtree_end)
        self._blocks = max(2, -(-nodes // BLOCK_NODES))
        size = self._blocks * BLOCK_NODES
        further = torch.arange(nodes, size, device=subtree_end.device)
        self._subtree_end = torch.cat([subtree_end, further + 1]).int()
        self._depth = pad(position_ids, (0, size - nodes)).int()
        self._flex = flex
        self._mask = cache(self._block_mask)  # one for all layers of a kind

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None, window: int | None) -> Tensor:
        nodes = query.shape[2]
        states = (pad(each, (0, 0, 0, len(self._depth) - nodes)) for each in (query, key, value))
        attended: Tensor = self._flex(*states, block_mask=self._mask(window), scale=scale, enable_gqa=True)
        return attended[:, :, :nodes]

    def _block_mask(self, window: int | None) -> BlockMask:
        """Which blocks are seen, from the least and the most of each: a table of all pairs of nodes would not fit."""
        subtree_end, depth = self._subtree_end, self._depth

        def sees(batch: Tensor, head: Tensor, q: Tensor, kv: Tensor) -> Tensor:
            visible = (kv <= q) & (q < subtree_end[kv])
            return visible if window is None else visible & (depth[q] - depth[kv] < window)

        start = torch.arange(self._blocks, device=depth.device) * BLOCK_NODES
        before, same = start < start[:, None], start == start[:, None]  # [queries' block, keys' block]
        first_end, last_end = subtree_end.view(-1, BLOCK_NODES).aminmax(dim=1)
        some = same | before & (last_end > start[:, None])
        every = before & (first_end >= start[:, None] + BLOCK_NODES)
        if window is not None:
            least, most = depth.view(-1, BLOCK_NODES).aminmax(dim=1)
            some &= least[:, None] - most < window
            every &= most[:, None] - least < window
        return BlockMask.from_kv_blocks(
            *_listed(some & ~every),
            *_listed(every),
            BLOCK_SIZE=BLOCK_NODES,
            mask_mod=sees,
        )


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """[1, 1, B] how many of a row's blocks are true, and [1, 1, B, B] which, these first: as `BlockMask` wants it."""
    indices = blocks.int().argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32)[None, None], indices.int()[None, None]


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
