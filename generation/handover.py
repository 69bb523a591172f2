"""Hands a forked request the part of its prefix that vLLM's prefix cache does not share: the last, partial block.

vLLM shares full blocks of keys and values only, so each forked request would compute its last partial block
again, up to a block of tokens instead of one. This KV connector (vLLM's interface for keys and values from
elsewhere) copies that block when a branch splits, and gives the copy to the branches that go on elsewhere. They
compute one token, the one that was drawn.

Scheduler and worker side live in one process, as forking needs. vLLM copies sampling parameters on their way to both:
a request carries no branch but a ticket, and `BRANCHES` is state of this module. So is the connector of vLLM
(`get_kv_transfer_group`), and there is one: one engine in a process can fork.
"""

import weakref
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from vllm.distributed.kv_transfer import get_kv_transfer_group, has_kv_transfer_group
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorMetadata

SHARE = 1 / 8
"""Of an engine's memory for keys and values, what copies may take; vLLM gets the rest. Beyond it nothing is copied,
and branches compute their last partial block again."""


@dataclass(frozen=True, eq=False)
class PartialBlock:
    """Keys and values of a prefix's last, partial block.

    start: position of the block's first token. tokens: how many are filled. layers: the block of each layer, each of
        the shape that the engine's cache has without the dimension of blocks.
    """

    start: int
    tokens: int
    layers: tuple[torch.Tensor, ...]


class Heir(Protocol):
    """What a ticket stands for: a branch, whose prefix another request may have computed."""

    inherited: PartialBlock | None


BRANCHES: dict[int, Heir] = {}
"""Running branches by ticket."""

TICKET = "ticket"
"""Where a request has its ticket: in `SamplingParams.extra_args`."""


def ticket_of(sampling_params: Any) -> int | None:
    """The ticket of a request's branch; None for a request that is not forked."""
    ticket: int | None = (sampling_params.extra_args or {}).get(TICKET) if sampling_params else None
    return ticket


@dataclass(frozen=True)
class _Load:
    """content: what to fill the cache's block number `block` with."""

    block: int
    content: PartialBlock


@dataclass
class _Plan(KVConnectorMetadata):
    """One engine step. loads: before it. blocks: the block ids of each running ticket."""

    loads: list[_Load]
    blocks: dict[int, list[int]]


class PartialBlockHandover(KVConnectorBase_V1):
    """See the module's text."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        self._block_size: int = vllm_config.cache_config.block_size
        self._requests: dict[str, int] = {}
        self._loads: list[_Load] = []
        self._caches: list[torch.Tensor] = []
        self._blocks: dict[int, list[int]] = {}
        self._copies: weakref.WeakSet[PartialBlock] = weakref.WeakSet()
        self._most_copies = most_copies(kv_cache_config.num_blocks)

    # Scheduler side

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        inherited = self._inherited(request)
        if inherited is None or inherited.start != num_computed_tokens:
            return 0, False
        return inherited.tokens, False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        ticket = ticket_of(request.sampling_params)
        if ticket is None:
            return
        self._requests[request.request_id] = ticket
        if num_external_tokens:
            inherited = self._inherited(request)
            assert inherited is not None
            block = blocks.get_block_ids()[0][inherited.start // self._block_size]
            self._loads.append(_Load(block, inherited))

    def build_connector_meta(self, scheduler_output: Any) -> _Plan:
        assert self._kv_cache_manager is not None
        blocks = {
            ticket: self._kv_cache_manager.get_block_ids(request_id)[0]
            for request_id in scheduler_output.num_scheduled_tokens
            if (ticket := self._requests.get(request_id)) is not None
        }
        plan = _Plan(self._loads, blocks)
        self._loads = []
        return plan

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, None]:
        self._requests.pop(request.request_id, None)
        return False, None

    def _inherited(self, request: Any) -> PartialBlock | None:
        ticket = ticket_of(request.sampling_params)
        return None if ticket is None else BRANCHES[ticket].inherited

    # Worker side

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        self._caches = list(kv_caches.values())

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        plan = self._get_connector_metadata()
        assert isinstance(plan, _Plan)
        self._blocks = plan.blocks
        for load in plan.loads:
            for cache, saved in zip(self._caches, load.content.layers, strict=True):
                cache[load.block].copy_(saved)

    def copy(self, ticket: int, length: int) -> PartialBlock | None:
        """Copy of the partial block at the end of a running request's first `length` tokens; None if it is full, or
        too many copies wait.

        None also while chunked prefill has not come that far: what is drawn then does not hold.
        """
        block, tokens = divmod(length, self._block_size)
        if not tokens or block >= len(self._blocks[ticket]) or len(self._copies) >= self._most_copies:
            return None
        index = self._blocks[ticket][block]
        made = PartialBlock(length - tokens, tokens, tuple(cache[index].clone() for cache in self._caches))
        self._copies.add(made)
        return made

    def wait_for_layer_load(self, layer_name: str) -> None:
        pass

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        pass

    def wait_for_save(self) -> None:
        pass


def most_copies(num_blocks: int) -> int:
    """How many copies fit beside vLLM's blocks, which have the rest of the memory."""
    return int(num_blocks * SHARE / (1 - SHARE))


def copy_partial_block(ticket: int, length: int) -> PartialBlock | None:
    """`PartialBlockHandover.copy` of this process's engine; None where it has no such connector."""
    if not has_kv_transfer_group():
        return None
    connector = get_kv_transfer_group()
    assert isinstance(connector, PartialBlockHandover)
    return connector.copy(ticket, length)
