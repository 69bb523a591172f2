"""Sending weights: from the ranks to every engine, over vLLM's weight-transfer interface.

One adapter, three ways: `shared_memory` (ours, without a GPU), `ipc` (engine and rank share a GPU) and `nccl`
(engines have their own GPUs). The trainer counts a checksum of what it sends; the engines count what they load.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from generation.buckets import pack
from generation.checksum import Checksum
from trainer.update.buffer_sizes import IPC_BUFFER_BYTES
from trainer.update.rank import Rank


class Client(Protocol):
    """All engines at once, as seen by the sending rank: vLLM's `VLLMWeightSyncClient`."""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None: ...
    def start_weight_update(self) -> None: ...
    def update_weights(self, update_info: dict[str, Any] | list[dict[str, Any]]) -> None: ...
    def finish_weight_update(self, weight_version: str | None = None) -> None: ...


class Sender(Protocol):
    """A way to send."""

    def send(self) -> int:
        """Sends all weights, as a collective over the ranks; the checksum of what was sent."""


@dataclass(frozen=True)
class SharedMemorySender:
    """Packs weights into buckets; the client puts them into shared memory."""

    rank: Rank
    client: Client
    is_sender: bool

    def send(self) -> int:
        """See `Sender.send`."""
        source = _CountedWeights(self.rank)
        if not self.is_sender:
            for _ in source:
                pass
            return source.checksum
        self.client.start_weight_update()
        for data, layout in pack(source):
            self.client.update_weights({"data": data, "layout": layout})
        self.client.finish_weight_update()
        return source.checksum


class _CountedWeights:
    """A rank's weights that keep the checksum of their latest pass."""

    def __init__(self, rank: Rank) -> None:
        self._rank = rank
        self._sent = Checksum()

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        self._sent = Checksum()
        for name, weight in self._rank.published():
            self._sent.add(name, weight)
            yield name, weight

    @property
    def checksum(self) -> int:
        """Of all weights of the latest pass."""
        return self._sent.value()


class VLLMSender:
    """vLLM's own trainer side of `ipc` and `nccl`."""

    def __init__(self, rank: Rank, client: Client, init_info: Any) -> None:
        from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource
        from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

        counted = _CountedWeights(rank)

        class Source(WeightSource):
            def metadata(self) -> list[ParamMeta]:
                return [ParamMeta(*meta) for meta in rank.metadata()]

            def __iter__(self) -> Iterator[tuple[str, Any]]:
                return iter(counted)

        self._counted = counted
        self._engine = WeightTransferTrainerFactory.trainer_init(init_info, client=client, source=Source())

    def send(self) -> int:
        """See `Sender.send`."""
        self._engine.send_weights()
        return self._counted.checksum


def largest_weight(rank: Rank) -> int:
    """Bytes of the largest weight, whole."""
    sizes: list[int] = [math.prod(shape) * dtype.itemsize for _, dtype, shape in rank.metadata()]
    return max(sizes)


def sender(
    backend: str,
    rank: Rank,
    rank_index: int,
    client: Client,
    *,
    master_address: str,
    master_port: int,
    workers: int,
) -> Sender:
    """The sender of a weight-transfer back end.

    master_address, master_port: where the sending rank listens for `nccl`. workers: engine processes in all.
    """
    if backend == "shared_memory":
        return SharedMemorySender(rank, client, is_sender=rank_index == 0)
    if backend == "ipc":
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

        return VLLMSender(
            rank,
            client,
            IPCTrainerInitInfo(
                rank=rank_index, packed=True, packed_buffer_size_bytes=max(IPC_BUFFER_BYTES, largest_weight(rank))
            ),
        )
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

    return VLLMSender(
        rank,
        client,
        NCCLTrainerInitInfo(
            rank=rank_index, master_address=master_address, master_port=master_port, world_size=1 + workers
        ),
    )
