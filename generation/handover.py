"""Hands a forked request the part of its prefix that vLLM's prefix cache does not share: the last, partial block.

vLLM shares full blocks of keys and values only, so each forked request would compute its last partial block
again, up to a block of tokens instead of one. This KV connector (vLLM's interface for keys and values from
elsewhere) copies that block when a branch splits, and gives the copy to the branches that go on elsewhere. They
compute one token, the one that was drawn.

Scheduler and worker side live in one process, as forking needs.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from vllm.distributed.kv_transfer import get_kv_transfer_group
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorMetadata


@dataclass(frozen=True)
class Tail:
    """Keys and values of a prefix's last, partial block.

    start: position of the block's first token. tokens: how many are filled. layers: the block of each layer.
    """

    start: int
    tokens: int
    layers: tuple[torch.Tensor, ...]


class Tailed(Protocol):
    """What a ticket stands for: a branch."""

    tail: Tail | None


TICKETS: dict[int, Tailed] = {}
"""Running branches by ticket. vLLM copies sampling parameters, so requests carry the ticket (`extra_args`)."""


def ticket_of(sampling_params: Any) -> int | None:
    """The ticket of a request's branch; None for a request that is not forked."""
    ticket: int | None = (sampling_params.extra_args or {}).get("branch") if sampling_params else None
    return ticket


@dataclass
class _Plan(KVConnectorMetadata):
    """One engine step. loads: (block id, tail) to fill in. blocks: the block ids of each running ticket."""

    loads: list[tuple[int, Tail]]
    blocks: dict[int, list[int]]


class TailHandover(KVConnectorBase_V1):
    """See the module's text."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        self._block_size: int = vllm_config.cache_config.block_size
        self._requests: dict[str, int] = {}
        self._loads: list[tuple[int, Tail]] = []
        self._caches: list[torch.Tensor] = []
        self._blocks: dict[int, list[int]] = {}

    # Scheduler side

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        tail = self._tail(request)
        if tail is None or tail.start != num_computed_tokens:
            return 0, False
        return tail.tokens, False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        ticket = ticket_of(request.sampling_params)
        if ticket is None:
            return
        self._requests[request.request_id] = ticket
        if num_external_tokens:
            tail = self._tail(request)
            assert tail is not None
            self._loads.append((blocks.get_block_ids()[0][tail.start // self._block_size], tail))

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

    def _tail(self, request: Any) -> Tail | None:
        ticket = ticket_of(request.sampling_params)
        return None if ticket is None else TICKETS[ticket].tail

    # Worker side

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        self._caches = list(kv_caches.values())

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        plan = self._get_connector_metadata()
        assert isinstance(plan, _Plan)
        self._blocks = plan.blocks
        for block, tail in plan.loads:
            for cache, saved in zip(self._caches, tail.layers, strict=True):
                cache[block].copy_(saved)

    def tail(self, ticket: int, length: int) -> Tail | None:
        """Copy of the partial block at the end of a running request's first `length` tokens; None if it is full.

        None also while chunked prefill has not come that far: what is drawn then does not hold.
        """
        block, tokens = divmod(length, self._block_size)
        if not tokens or block >= len(self._blocks[ticket]):
            return None
        index = self._blocks[ticket][block]
        return Tail(length - tokens, tokens, tuple(cache[index].clone() for cache in self._caches))

    def wait_for_layer_load(self, layer_name: str) -> None:
        pass

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        pass

    def wait_for_save(self) -> None:
        pass


def tail(ticket: int, length: int) -> Tail | None:
    """`TailHandover.tail` of this process's engine."""
    connector = get_kv_transfer_group()
    assert isinstance(connector, TailHandover)
    return connector.tail(ticket, length)
