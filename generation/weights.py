"""Receiving weights: vLLM's weight-transfer interface, with a checksum of what was loaded.

Every back end (vLLM's `nccl` and `ipc`, and `shared_memory`, ours, for CPU) hands named tensors to the model's
`load_weights`. `_Verified` watches them on the way, so that a transfer that loads nothing, or something else, is
told from a good one.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.weight_transfer import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.ipc_engine import IPCWeightTransferEngine
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from generation.buckets import Data, Layout, unpack
from generation.checksum import Checksum
from generation.reloading import InPlace, in_place


class _Watched:
    """A model whose `load_weights` adds what it is given to a checksum."""

    def __init__(self, model: Any, loaded: Checksum) -> None:
        self._model = model
        self._loaded = loaded

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> Any:
        return self._model.load_weights(self._watch(weights))

    def _watch(self, weights: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        for name, weight in weights:
            self._loaded.add(name, weight)
            yield name, weight


class _Verified(WeightTransferEngine[Any, Any]):
    """A back end that keeps the checksum of all weights loaded since `start_weight_update`, and loads in place
    where it can."""

    loaded: Checksum | None = None
    _in_place: InPlace | None = None

    def start_weight_update(self) -> None:
        if self.loaded is None:
            self._in_place = in_place(self.model)
        self.loaded = Checksum()
        if self._in_place:
            self._in_place.start()
        else:
            super().start_weight_update()  # type: ignore[safe-super]

    def receive_weights(self, update_info: Any) -> None:
        assert self.loaded is not None
        model = self.model
        self.model = _Watched(model, self.loaded)  # type: ignore[assignment]
        try:
            super().receive_weights(update_info)  # type: ignore[safe-super]
        finally:
            self.model = model

    def finish_weight_update(self) -> None:
        if self._in_place:
            self._in_place.finish(self.model_config)
        else:
            super().finish_weight_update()  # type: ignore[safe-super]


@dataclass
class SharedMemoryInitInfo(WeightTransferInitInfo):
    """Nothing to agree on."""


@dataclass
class SharedMemoryUpdateInfo(WeightTransferUpdateInfo):
    """One bucket: see `generation.buckets`.

    data: in shared memory.
    """

    data: Data
    layout: Layout


class SharedMemoryWeightTransferEngine(WeightTransferEngine[SharedMemoryInitInfo, SharedMemoryUpdateInfo]):
    """Loads weights from buckets that trainer and engine both have mapped. A bucket is read during `receive_weights`
    only: its memory may be used again after that."""

    init_info_cls = SharedMemoryInitInfo
    update_info_cls = SharedMemoryUpdateInfo

    _in_place: InPlace | None = None

    def init_transfer_engine(self, init_info: SharedMemoryInitInfo) -> None:
        pass

    def start_weight_update(self) -> None:
        for module in self.model.modules():
            method: Any = getattr(module, "quant_method", None)
            if getattr(method, "moe_kernel", None) is not None:
                method.moe_kernel = None  # or vLLM would not pack the experts for it again
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: SharedMemoryUpdateInfo) -> None:
        model: Any = self.model
        weights = unpack(update_info.data, update_info.layout)
        # Layerwise reload keeps what it is given until a layer is complete, which may be in a later bucket.
        model.load_weights(weights if self._in_place else ((name, weight.clone()) for name, weight in weights))

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        # A head tied to the embeddings is not named in a checkpoint, so vLLM's reload passes it by; but on CPU it
        # multiplies by a packed copy of the weights, which is still the old one.
        for module in self.model.modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)

    def shutdown(self) -> None:
        pass


class VerifiedSharedMemory(_Verified, SharedMemoryWeightTransferEngine):
    """`shared_memory` with a checksum."""


class VerifiedIPC(_Verified, IPCWeightTransferEngine):
    """`ipc` with a checksum."""

    def finish_weight_update(self) -> None:
        super().finish_weight_update()
        self._packed_importer.close()  # vLLM's own form does so, and is not called where weights are loaded in place


class VerifiedNCCL(_Verified, NCCLWeightTransferEngine):
    """`nccl` with a checksum."""


BACKENDS = {
    "shared_memory": VerifiedSharedMemory,
    "ipc": VerifiedIPC,
    "nccl": VerifiedNCCL,
}


class LoadedChecksum:
    """Mixed into vLLM's worker (`worker_extension_cls`)."""

    weight_transfer_engine: _Verified

    def loaded_checksum(self) -> int:
        """Checksum of the weights loaded by the latest update."""
        loaded = self.weight_transfer_engine.loaded
        return loaded.value() if loaded else 0


def backend(name: str) -> str:
    """The name under which vLLM knows the verified form of back end `name`."""
    return f"cohort_{name}"


# On import, since vLLM's worker processes import this module for `LoadedChecksum` and must know the back ends too.
for _name, _engine in BACKENDS.items():
    WeightTransferEngineFactory.register_engine(backend(_name), _engine)
