"""A checksum of named weights that does not depend on their order or device."""

import zlib
from collections.abc import Iterable

import torch

MODULUS = 1 << 64


class Checksum:
    """Sum over the weights of hash(name) × (1 + sum of the tensor's 64-bit words), modulo 2^64.

    One pass at memory speed on CPU and GPU, and one wait for the device in all. Trainer and engine compute it of the
    same named tensors in the same dtype, each of what it sent or loaded.
    """

    def __init__(self) -> None:
        self._hashes: list[int] = []
        self._sums: list[torch.Tensor] = []

    def add(self, name: str, weight: torch.Tensor) -> None:
        """Reads `weight` before anything that the current stream is told after this."""
        data = weight.detach().contiguous().view(-1).view(torch.uint8)
        missing = -data.numel() % 8
        if missing:
            data = torch.nn.functional.pad(data, (0, missing))
        elif data.data_ptr() % 8:
            data = data.clone()
        self._hashes.append(zlib.crc32(name.encode()))
        self._sums.append(data.view(torch.int64).sum())

    def value(self) -> int:
        """Of all weights added."""
        if any(total.is_cuda for total in self._sums):
            torch.cuda.synchronize()  # weights may have been added in other streams
        sums: list[int] = torch.stack(self._sums).tolist() if self._sums else []
        # Never 0: also a tensor of zeros must be seen to arrive.
        return sum(name * (total + 1) for name, total in zip(self._hashes, sums, strict=True)) % MODULUS


def checksum(weights: Iterable[tuple[str, torch.Tensor]]) -> int:
    """`Checksum` of all of `weights`."""
    found = Checksum()
    for name, weight in weights:
        found.add(name, weight)
    return found.value()
