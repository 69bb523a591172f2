"""Rows of different lengths, laid end to end in one array: what token trees are computed with."""

from collections.abc import Sequence
from itertools import chain
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)


def shared_prefixes(token_ids: NDArray[np.integer[Any]], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """[rows] length of the prefix that each row has in common with the one before it, 0 for the first.

    token_ids: [sum of lengths], one row after another. lengths: [rows].
    """
    shared = np.zeros(len(lengths), np.int64)
    if len(lengths) > 1:
        common = np.minimum(lengths[1:], lengths[:-1])  # only as far as both go
        token = ranges(sums_before(lengths)[:-1], common)
        differ = np.flatnonzero(token_ids[token] != token_ids[token + np.repeat(lengths[:-1], common)])
        compared = sums_before(common)
        next_difference = np.append(differ, len(token))[np.searchsorted(differ, compared)]
        shared[1:] = np.minimum(next_difference - compared, common)
    return shared


def shared_nodes(shared: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """[completions] how many of its nodes each has in common with the one before it: a last token has none."""
    inner = lengths - 1
    nodes = np.minimum(shared, inner)
    np.minimum(nodes[1:], inner[:-1], out=nodes[1:])
    return nodes


def joined_rows(rows: Sequence[NDArray[Scalar]], dtype: type[Scalar], size: int) -> NDArray[Scalar]:
    """[size] one row after another. Where rows are short, joining their bytes takes a third of the time of
    `np.concatenate`, which is left for rows of another type or with gaps."""
    try:
        joined = np.frombuffer(b"".join(cast(Sequence[bytes], rows)), dtype)  # any buffers will do
    except TypeError:  # gaps: join takes no such buffer
        joined = np.empty(0, dtype)
    return joined if len(joined) == size else np.concatenate(rows).astype(dtype)


def flattened(rows: Sequence[tuple[int, ...]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """[sum of lengths] one row after another, and [rows] their lengths."""
    lengths = np.array([len(row) for row in rows])
    return np.fromiter(chain.from_iterable(rows), np.int64, count=int(lengths.sum())), lengths


def ranges(starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """[sum of sizes] for each start so many numbers from there on."""
    until = sizes.cumsum()
    numbers: NDArray[np.int64] = np.arange(until[-1]) + (starts - until + sizes).repeat(sizes)
    return numbers


def sums_before(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """[values] the sum of all before each."""
    return values.cumsum() - values


def sums_until(values: NDArray[np.int64]) -> list[int]:
    """[values + 1] `sums_before`, and the sum of all."""
    return [0, *values.cumsum().tolist()]
