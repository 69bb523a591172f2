"""Columns: a frozen record of arrays of one length, changed by copying. Copying costs the same at every step."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self, TypeVar, get_args, get_type_hints

import numpy as np
from numpy.typing import ArrayLike, NDArray

Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True)
class Columns:
    """Every field of a subclass is an array `NDArray[...]` of as many rows."""

    @classmethod
    def zeros(cls, rows: int) -> Self:
        """Of so many rows."""
        return cls(**{name: np.zeros(rows, dtype) for name, dtype in dtypes(cls).items()})

    def rows(self, start: int) -> Self:
        """The rows from `start` on."""
        return type(self)(**{field.name: getattr(self, field.name)[start:] for field in fields(self)})

    def with_rows(self, numbers: Sequence[int], **values: ArrayLike) -> Self:
        """With other values in the rows `numbers` of the columns named."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return type(self)(**columns | {name: changed(columns[name], numbers, new) for name, new in values.items()})

    def extended(self, **values: ArrayLike) -> Self:
        """With rows more. values: of every column."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return type(self)(
            **{name: np.concatenate([old, np.asarray(values[name], old.dtype)]) for name, old in columns.items()}
        )


def changed(column: NDArray[Number], numbers: Sequence[int], values: ArrayLike) -> NDArray[Number]:
    """A copy of the column with other values in these rows."""
    copy = column.copy()
    copy[numbers] = values
    return copy


def dtypes(record: Any) -> dict[str, np.dtype[np.generic]]:
    """Field -> dtype, of a record whose fields are all `NDArray[...]`."""
    return {name: dtype_of(hint) for name, hint in get_type_hints(record).items()}


def dtype_of(hint: Any) -> np.dtype[np.generic]:
    """Of `NDArray[scalar]`, which NumPy 2.5 leaves as it stands, and releases before it turn into `ndarray[shape,
    dtype[scalar]]`."""
    while arguments := get_args(hint):
        hint = arguments[-1]
    found: np.dtype[np.generic] = np.dtype(hint)
    return found
