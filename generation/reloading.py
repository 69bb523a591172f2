"""Loading weights anew in place, where that comes to the same as vLLM's layerwise reload.

On a CPU vLLM packs every linear weight for its kernel and drops the weight itself. Layerwise reload can undo whatever
was done to a model, and allocates each layer anew for it. Where packing is all that was done (a GPU needs none),
it is enough to put the dropped weights back, load them, and pack them again. They are kept for the next time: the
page faults of new memory take several times as long as writing the weights.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from vllm.config import ModelConfig
from vllm.model_executor.layers.attention import is_deferred_attention_layer
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, UnquantizedEmbeddingMethod
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info
from vllm.model_executor.model_loader.reload.meta import SKIP_TENSORS, materialize_meta_tensor
from vllm.model_executor.model_loader.reload.sanitize import restore_layer_refs
from vllm.model_executor.model_loader.reload.utils import get_layer_tensors

M_TRIM_THRESHOLD, M_MMAP_MAX, DEFAULT_MMAP_MAX = -1, -4, 65536
"""Of glibc's malloc.h."""


@dataclass(frozen=True)
class InPlace:
    """A model that can be loaded in place.

    dropped: each linear module whose weight was packed, with the weight in the form that checkpoints load into.
    """

    model: torch.nn.Module
    dropped: tuple[tuple[torch.nn.Module, torch.nn.Parameter], ...]

    def start(self) -> None:
        """After this the model's `load_weights` may be called, in as many parts as there are."""
        for module, weight in self.dropped:
            module.register_parameter("weight", weight)

    def finish(self, model_config: ModelConfig) -> None:
        """Packs what was loaded."""
        with _freed_memory_is_reused():
            self._pack(model_config)

    def _pack(self, model_config: ModelConfig) -> None:
        modules: list[Any] = list(self.model.modules())
        heads = [module for module in modules if isinstance(module, ParallelLMHead)]
        for module in modules:
            method = getattr(module, "quant_method", None)
            if not isinstance(method, QuantizeMethodBase):
                continue
            if module not in heads and any(module.weight is head.weight for head in heads):
                # Tied embeddings are looked up, not multiplied by: the head has the packed copy. vLLM packs them too.
                module.cpu_linear = torch.nn.functional.linear
            else:
                method.process_weights_after_loading(module)
        for module in modules:
            if is_deferred_attention_layer(module):
                module.process_weights_after_loading(model_config.dtype)


@contextmanager
def _freed_memory_is_reused() -> Iterator[None]:
    """glibc gives blocks above 32 MiB back to the system and asks for new ones, whose page faults take as long as
    packing a head. Without `mmap` the block that the last version leaves is the next one's."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):  # another libc
        yield
        return
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    libc.mallopt(M_MMAP_MAX, 0)
    try:
        yield
    finally:
        libc.mallopt(M_MMAP_MAX, DEFAULT_MMAP_MAX)


def in_place(model: torch.nn.Module) -> InPlace | None:
    """None where more was done to the model's tensors after loading than to pack weights of linear modules (as for
    quantised layers, mixtures of experts, convolutions)."""
    dropped: list[tuple[torch.nn.Module, Any]] = []
    for module in model.modules():
        method = getattr(module, "quant_method", None)
        if isinstance(method, QuantizeMethodBase) and type(method) not in _PACKING:
            return None
        parameters, buffers = get_layerwise_info(module).restore_metadata
        recorded: dict[str, Any] = parameters | buffers
        tensors = get_layer_tensors(module)
        if not tensors.keys() <= {*recorded, *SKIP_TENSORS}:
            return None
        for name, before in recorded.items():
            now = tensors.get(name)
            if now is not None and (now.shape, now.dtype) == (before.shape, before.dtype):
                continue
            packed = type(method) is UnquantizedLinearMethod and name == "weight" and before.ndim == 2
            if not packed or now is None or now.numel():
                return None
            dropped.append((module, materialize_meta_tensor(restore_layer_refs(before, module))))
    return InPlace(model, tuple(dropped))


_PACKING = (UnquantizedLinearMethod, UnquantizedEmbeddingMethod)
