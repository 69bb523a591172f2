"""Memory that processes of one machine share, without a name that could outlive them.

A memfd is in no file system. Other processes of the user open it as /proc/PID/fd/FD of its owner, and it is gone with
the last process that has it mapped, however that one ends: nothing is ever left to clean up.
"""

import mmap
import os
import secrets
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

ALIGNMENT = 64
"""Each array begins at a multiple of this."""


@dataclass(frozen=True)
class Address:
    """Where to find a segment.

    name: random, so that a process of another machine is not taken for the owner. size: in bytes.
    """

    pid: int
    fd: int
    name: str
    size: int


EXAMPLE_ADDRESS = Address(pid=4711, fd=23, name="cohort-5f1d3c0a9b7e4d21", size=1 << 27)


class Segment:
    """Shared memory of this process, for it to write into."""

    def __init__(self, size: int) -> None:
        name = f"cohort-{secrets.token_hex(8)}"
        fd = os.memfd_create(name)
        weakref.finalize(self, os.close, fd)
        os.ftruncate(fd, size)
        self.address = Address(os.getpid(), fd, name, size)
        self._bytes: Bytes = np.frombuffer(mmap.mmap(fd, size), dtype=np.uint8)

    def write(self, arrays: Sequence[Bytes]) -> None:
        """Copies the arrays into it, for `parts` to give back; they need `room` bytes."""
        for part, array in zip(parts(self._bytes, [array.nbytes for array in arrays]), arrays, strict=True):
            np.copyto(part, array)


def attach(address: Address) -> Bytes | None:
    """The segment's bytes, read-only; None if its owner is on another machine or may not be looked into."""
    path = Path(f"/proc/{address.pid}/fd/{address.fd}")
    try:
        if str(path.readlink()) != f"/memfd:{address.name} (deleted)":
            return None
        fd = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, PermissionError):
        return None
    try:
        return np.frombuffer(mmap.mmap(fd, address.size, prot=mmap.PROT_READ), dtype=np.uint8)
    finally:
        os.close(fd)


def room(sizes: Sequence[int]) -> int:
    """Bytes that arrays of these sizes need in a segment."""
    return sum(_aligned(size) for size in sizes)


def parts(segment: Bytes, sizes: Sequence[int]) -> Iterator[Bytes]:
    """The arrays in a segment, as views."""
    start = 0
    for size in sizes:
        yield segment[start : start + size]
        start += _aligned(size)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
