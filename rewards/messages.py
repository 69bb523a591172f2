"""What a reward function's process and its owner say to each other, each message after its length in eight bytes.

Requests are pickled, so that a data set's columns arrive as they are. Replies are JSON: user code, and with some
scorers a model's text, ran in the process they come from, so its owner takes numbers and texts and nothing else.
"""

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

HEAD = struct.Struct(">Q")

REPLY_BYTES = 64 * 2**20
"""Of a reply at most: two million numbers."""


@dataclass(frozen=True)
class Ready:
    """The function is imported. required: parameters without a default. accepted: all of them, or None
    when it takes **kwargs."""

    required: tuple[str, ...]
    accepted: frozenset[str] | None


@dataclass(frozen=True)
class Values:
    """What the function returned: a float for every number, None for None, else the text of what stands there
    instead.

    metrics: numbers that it logged, by name. extra: of each completion what it logged, by column.
    """

    values: tuple[float | str | None, ...]
    metrics: Mapping[str, float] = field(default_factory=dict)
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """What went wrong, in words, with the line of the user's file."""

    problem: str


Reply = Ready | Values | Failure

EXAMPLE_READY = Ready(required=("completions", "answer"), accepted=None)
EXAMPLE_VALUES = Values((1.0, None, "nothing"), {"near": 0.5}, {"answer": ("3", "4", "")})
EXAMPLE_FAILURE = Failure(problem="raised ZeroDivisionError: division by zero (line 3)")


def framed(payload: bytes) -> bytes:
    """The message, as it is sent."""
    return HEAD.pack(len(payload)) + payload


def received(read: Callable[[int], bytes]) -> bytes:
    """The next message. read: at most so many bytes of the stream, none at its end. Raises EOFError."""
    (size,) = HEAD.unpack(_exactly(read, HEAD.size))
    return _exactly(read, size)


def encoded(reply: Reply) -> bytes:
    """A reply as JSON; floats stay exact, NaN and the infinities too."""
    match reply:
        case Ready(required, accepted):
            value: object = {"required": required, "accepted": None if accepted is None else sorted(accepted)}
        case Values(values, metrics, extra):
            value = {"values": values, "metrics": dict(metrics), "extra": dict(extra)}
        case Failure(problem):
            value = {"problem": problem}
    return json.dumps(value).encode()


def decoded(payload: bytes) -> Reply:
    """The reply that `encoded` made. Raises ValueError for anything else."""
    try:
        match json.loads(payload):
            case {"required": list(required), "accepted": None | list() as accepted} if all(
                isinstance(name, str) for name in (*required, *(accepted or ()))
            ):
                return Ready(tuple(required), None if accepted is None else frozenset(accepted))
            case {"values": list(values), "metrics": dict(metrics), "extra": dict(extra)} if (
                all(type(value) in (float, str, type(None)) for value in values)
                and all(type(value) is float for value in metrics.values())
                and all(type(column) is list and all(type(one) is str for one in column) for column in extra.values())
            ):
                return Values(tuple(values), metrics, {name: tuple(column) for name, column in extra.items()})
            case {"problem": str(problem)}:
                return Failure(problem)
    except RecursionError:  # nested too deep, so none either
        pass
    raise ValueError("no reply of a reward function's process")


def _exactly(read: Callable[[int], bytes], size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = read(min(size - len(parts), 2**20))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)
