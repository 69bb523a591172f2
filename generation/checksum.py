"""A checksum of named weights that does not depend on their order or device."""

import zlib
from collections.abc import Iterable

import torch

MODULUS = 1 << 64


def checksum(weights: Iterable[tuple[str, torch.Tensor]]) -> int:
    """Sum over the weights of hash(name) × sum of the tensor's 64-bit words, modulo 2^64.

    One pass at memory speed on CPU and GPU. Trainer and engine compute it of the same named tensors in the same
    dtype, each on what it sent or loaded.
    """
    return sum(term(name, weight) for name, weight in weights) % MODULUS


def term(name: str, weight: torch.Tensor) -> int:
    """One weight's share of the checksum; shares add up."""
    data = weight.detach().contiguous().view(-1).view(torch.uint8)
    missing = -data.numel() % 8
    if missing:
        data = torch.nn.functional.pad(data, (0, missing))
    elif data.data_ptr() % 8:
        data = data.clone()
    # Never 0: also a tensor of zeros must be seen to arrive.
    return zlib.crc32(name.encode()) * (int(data.view(torch.int64).sum()) + 1)
