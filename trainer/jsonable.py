"""Frozen records to JSON and back, by their type hints: dataclasses, tuples, mappings, sets, unions and arrays.

An array is its dtype and its bytes, compressed: exact, and small where most rows are alike. Other numbers are exact
too, since JSON's decimal form of a float gives the same float back. There is no code in what is read (no pickle).
"""

import base64
import math
import types
import zlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from trainer.columns import dtype_of

Record = TypeVar("Record")


class NotThisRecord(ValueError):
    """JSON that does not hold the record that was asked for; the message says where."""


def to_json(record: Any) -> Any:
    """What `json.dumps` takes."""
    if is_dataclass(record) and not isinstance(record, type):
        return {field.name: to_json(getattr(record, field.name)) for field in fields(record)}
    if isinstance(record, np.ndarray):
        little = record.astype(record.dtype.newbyteorder("<"))
        data = base64.b64encode(zlib.compress(little.tobytes(), level=1)).decode()
        return {"dtype": little.dtype.str, "shape": list(record.shape), "zlib": data}
    if isinstance(record, Mapping):
        return [[to_json(key), to_json(value)] for key, value in record.items()]
    if isinstance(record, frozenset):
        return sorted(map(to_json, record))
    if isinstance(record, tuple | list):
        return [to_json(value) for value in record]
    if isinstance(record, np.generic):
        return to_json(record.item())
    if isinstance(record, float) and not math.isfinite(record):
        return str(record)  # JSON has no word for it
    return record


def from_json(kind: type[Record], value: Any, where: str = "$") -> Record:
    """The record. Raises NotThisRecord: something is missing, unknown or of another type."""
    read: Record = _read(kind, value, where)
    return read


def _read(kind: Any, value: Any, where: str) -> Any:
    try:
        return _as(kind, value, where)
    except NotThisRecord:
        raise
    except (KeyError, IndexError, TypeError, ValueError, zlib.error) as error:
        raise NotThisRecord(f"{where}: {error}") from error


def _as(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _read_union(arguments, value, where)
    if origin is Literal:
        return _expected(value in arguments, kind, value, where)
    if is_dataclass(kind):
        return _read_dataclass(kind, value, where)
    if origin in (np.ndarray, NDArray):
        return _read_array(dtype_of(kind), value, where)
    if origin is tuple and arguments[-1] is Ellipsis:
        return tuple(_read(arguments[0], one, f"{where}[{index}]") for index, one in enumerate(value))
    if origin is tuple:
        pairs = zip(arguments, value, strict=True)
        return tuple(_read(of, one, f"{where}[{index}]") for index, (of, one) in enumerate(pairs))
    if origin is frozenset:
        return frozenset(_read(arguments[0], one, where) for one in value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        key, of = arguments
        return {_read(key, name, where): _read(of, one, f"{where}.{name}") for name, one in value}
    if kind is float:
        _expected(type(value) in (int, float) or value in ("inf", "-inf", "nan"), kind, value, where)
        return float(value)
    return _expected(type(value) is kind, kind, value, where)


def _read_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    """One of them may be None; of several records the fields tell which."""
    if value is None and types.NoneType in kinds:
        return None
    others = [kind for kind in kinds if kind is not types.NoneType]
    for kind in others[:-1]:
        try:
            return _read(kind, value, where)
        except NotThisRecord:
            continue
    return _read(others[-1], value, where)


def _read_dataclass(kind: Any, value: Any, where: str) -> Any:
    hints = _hints(kind)
    names = [field.name for field in fields(kind)]
    if not isinstance(value, dict) or value.keys() != {*names}:
        given = sorted(value) if isinstance(value, dict) else value
        raise NotThisRecord(f"{where}: {kind.__name__} has the fields {', '.join(names)}, not {given!r}.")
    return kind(**{name: _read(hints[name], value[name], f"{where}.{name}") for name in names})


def _read_array(dtype: np.dtype[Any], value: Any, where: str) -> Any:
    given = np.dtype(value["dtype"])
    _expected(given == dtype.newbyteorder("<"), dtype, value["dtype"], where)
    data = zlib.decompress(base64.b64decode(value["zlib"], validate=True))
    array = np.frombuffer(data, given).reshape(value["shape"])
    return array.astype(dtype)  # in this machine's byte order, and writable


def _expected(is_so: bool, kind: Any, value: Any, where: str) -> Any:
    if not is_so:
        name = getattr(kind, "__name__", kind)
        raise NotThisRecord(f"{where}: {value!r} is no {name}.")
    return value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)
