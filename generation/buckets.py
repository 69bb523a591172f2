"""Weights packed into buckets: few large byte arrays instead of many small messages."""

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

BUCKET_BYTES = 1 << 30
ALIGNMENT = 64

Layout = tuple[tuple[str, str, tuple[int, ...]], ...]
"""Name, dtype (torch's name) and shape of each weight of a bucket, in order."""


def pack(
    weights: Iterable[tuple[str, torch.Tensor]], bucket_bytes: int = BUCKET_BYTES
) -> Iterator[tuple[NDArray[np.uint8], Layout]]:
    """Buckets of about `bucket_bytes` (a larger weight has one of its own), each as bytes and layout."""
    pending: list[tuple[str, torch.Tensor]] = []
    size = 0
    for name, weight in weights:
        if pending and size + weight.nbytes > bucket_bytes:
            yield _bucket(pending)
            pending, size = [], 0
        pending.append((name, weight))
        size += weight.nbytes
    if pending:
        yield _bucket(pending)


def unpack(data: NDArray[np.uint8], layout: Layout) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights of a bucket, as views into `data`."""
    with warnings.catch_warnings():
        # Arrays from Ray's object store are read-only, and these weights are only read.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        whole = torch.from_numpy(data)
    offset = 0
    for name, dtype_name, shape in layout:
        dtype = getattr(torch, dtype_name)
        nbytes = math.prod(shape) * dtype.itemsize
        yield name, whole[offset : offset + nbytes].view(dtype).view(shape)
        offset += _aligned(nbytes)


def _bucket(weights: Sequence[tuple[str, torch.Tensor]]) -> tuple[NDArray[np.uint8], Layout]:
    data = np.empty(sum(_aligned(weight.nbytes) for _, weight in weights), dtype=np.uint8)
    offset = 0
    for _, weight in weights:
        flat = weight.detach().cpu().contiguous().view(-1).view(torch.uint8)
        data[offset : offset + flat.numel()] = flat.numpy()
        offset += _aligned(flat.numel())
    layout = tuple((name, str(w.dtype).removeprefix("torch."), tuple(w.shape)) for name, w in weights)
    return data, layout


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
