"""Weights in buckets: few large messages instead of many small ones."""

import warnings
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

BUCKET_BYTES = 1 << 27
"""So that a model comes in several, and one is loaded while the next is made."""

Data = tuple[NDArray[np.uint8], ...]
"""The bytes of each weight of a bucket."""

Layout = tuple[tuple[str, str, tuple[int, ...]], ...]
"""Name, dtype (torch's name) and shape of each weight of a bucket, in the same order."""


def pack(
    weights: Iterable[tuple[str, torch.Tensor]], bucket_bytes: int = BUCKET_BYTES
) -> Iterator[tuple[Data, Layout]]:
    """Buckets of at most `bucket_bytes`; a larger weight has one of its own. Weights in memory are not copied."""
    pending: list[tuple[str, torch.Tensor]] = []
    size = 0
    for name, weight in weights:
        if pending and size + weight.nbytes > bucket_bytes:
            yield _bucket(pending)
            pending, size = [], 0
        pending.append((name, weight.detach().cpu().contiguous()))
        size += weight.nbytes
    if pending:
        yield _bucket(pending)


def unpack(data: Data, layout: Layout) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights of a bucket, as views into `data`."""
    for array, (name, dtype, shape) in zip(data, layout, strict=True):
        with warnings.catch_warnings():
            # Arrays from Ray's object store are read-only, and these weights are only read.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            yield name, torch.from_numpy(array).view(getattr(torch, dtype)).view(shape)


def _bucket(weights: list[tuple[str, torch.Tensor]]) -> tuple[Data, Layout]:
    data = tuple(weight.view(-1).view(torch.uint8).numpy() for _, weight in weights)
    return data, tuple((name, str(w.dtype).removeprefix("torch."), tuple(w.shape)) for name, w in weights)
