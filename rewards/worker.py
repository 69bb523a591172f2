"""The process that runs a reward function: forked by rewards/guard.py, which ends it.

Imports nothing heavy: it starts in a tenth of a second, plus what the user's file imports.
"""

import asyncio
import importlib.util
import inspect
import pickle
import reprlib
import resource
import socket
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Set
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rewards.messages import Failure, Ready, Reply, Values, encoded, framed, received

_shown = reprlib.Repr()
_shown.maxstring = _shown.maxother = 80


NAME, TEXT, NAMES = 100, 400, 100
"""What a function may log: characters of a name and of a completion's column, and different names."""


def serve(path: str, function: str, connection: socket.socket) -> None:
    """Import the function, say so, then answer requests until the other end closes.

    A request is the function's arguments, and how many values it should return.
    """
    try:
        target = _imported(Path(path), function)
        usable = _usable(target)
        accepted = usable.accepted if isinstance(usable, Ready) else None
    except BaseException as error:  # noqa: BLE001  # SystemExit too: user code may call sys.exit
        _send(connection, Failure(_problem(error, path)))
        return
    _send(connection, usable)
    while True:
        try:
            request = received(connection.recv)
        except (EOFError, ConnectionError):
            return
        _send(connection, _call(target, accepted, request, path))


def _send(connection: socket.socket, reply: Reply) -> None:
    connection.sendall(framed(encoded(reply)))


def _imported(path: Path, function: str) -> Callable[..., Any]:
    name = f"reward_function_{path.stem}"  # the file may be called rewards.py, or json.py
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))
    spec.loader.exec_module(module)
    target: Any = getattr(module, function, None)
    if inspect.isclass(target) and "__call__" in vars(target):
        target = target()
    if target is None or not callable(target):
        own = [
            name
            for name, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module.__name__
        ]
        raise LookupError(f"there is no function `{function}` in it; it has {', '.join(own) or 'none'}")
    found: Callable[..., Any] = target
    return found


def _usable(target: Callable[..., Any]) -> Ready | Failure:
    """What it can be called with, by name."""
    if inspect.isclass(target):
        return Failure("is a class without `__call__`, not a function that returns a list of numbers")
    if inspect.isasyncgenfunction(target):
        return Failure("is an asynchronous generator, not a function that returns a list of numbers")
    parameters = inspect.signature(target).parameters.values()
    nameless = [each.name for each in parameters if each.kind is each.POSITIONAL_ONLY and each.default is each.empty]
    if nameless:
        return Failure(f"takes `{nameless[0]}` by place only, and arguments are given by name")
    named = [each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters)
    if not named and not takes_all:
        return Failure("takes no argument by name, such as `completions`")
    return Ready(
        required=tuple(each.name for each in named if each.default is each.empty),
        accepted=None if takes_all else frozenset(each.name for each in named),
    )


class _Log:
    """What TRL's `log_metric` and `log_extra` are given. Of several values of a metric the mean is kept."""

    def __init__(self) -> None:
        self._metrics: dict[str, list[float]] = {}
        self._extra: dict[str, tuple[str, ...]] = {}

    def metric(self, name: str, value: float) -> None:
        if name in self._metrics or len(self._metrics) < NAMES:
            self._metrics.setdefault(str(name)[:NAME], []).append(float(value))

    def extra(self, column: str, values: Iterable[Any]) -> None:
        if column in self._extra or len(self._extra) < NAMES:
            self._extra[str(column)[:NAME]] = tuple(str(value)[:TEXT] for value in values)

    def values(self, values: Iterable[Any]) -> Values:
        metrics = {name: sum(given) / len(given) for name, given in self._metrics.items()}
        return Values(tuple(map(_plain, values)), metrics, self._extra)


def _call(target: Callable[..., Any], accepted: Set[str] | None, request: bytes, path: str) -> Values | Failure:
    log = _Log()
    try:
        arguments, wanted = pickle.loads(request)
        given = {
            "log_metric": log.metric,
            "log_extra": log.extra,
            "trainer_state": SimpleNamespace(**arguments.pop("trainer_state", {})),
        }
        arguments |= {name: value for name, value in given.items() if accepted is None or name in accepted}
        result = target(**arguments)
        if inspect.iscoroutine(result):
            result = asyncio.run(result)
        if isinstance(result, str | bytes | bytearray | Mapping | Set) or not isinstance(result, Iterable):
            return Failure(f"returned {type(result).__name__} ({_shown.repr(result)[:80]}), not a list of numbers")
        return log.values(islice(result, wanted + 1))  # it may be endless
    except BaseException as error:  # noqa: BLE001
        return Failure(_problem(error, path))


def _plain(value: Any) -> float | str | None:
    """A number as a float, NumPy's and torch's included; None as it is."""
    if value is None:
        return None
    item = getattr(value, "item", None)
    number = item() if callable(item) else value
    return float(number) if isinstance(number, int | float) else _shown.repr(value)[:80]


def _problem(error: BaseException, path: str) -> str:
    if isinstance(error, MemoryError):
        traceback.clear_frames(error.__traceback__)  # what follows needs some
    own = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    line = f" (line {own[-1]})" if own else ""
    if isinstance(error, MemoryError):
        limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
        return f"needed more than the {limit / 2**30:.1f} GiB of memory that it may have{line}"
    return f"raised {type(error).__name__}: {_told(error)}{line}"


def _told(error: BaseException) -> str:
    try:
        return str(error)[:400]
    except BaseException:  # noqa: BLE001  # __str__ is user code
        return "an error that cannot be told"
