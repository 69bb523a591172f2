"""The process that runs a user's reward function: started by rewards/function.py, ended by it or with it.

Imports nothing heavy: it starts in a tenth of a second, plus what the user's file imports.
"""

import asyncio
import importlib.util
import inspect
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Ready:
    """The function is imported. required: parameters without a default. accepted: all of them, or None
    when it takes **kwargs."""

    required: tuple[str, ...]
    accepted: frozenset[str] | None


@dataclass(frozen=True)
class Values:
    """What the function returned: a float for every number, else the text of what stands there instead."""

    values: tuple[float | str, ...]


@dataclass(frozen=True)
class Failure:
    """What went wrong, in words, with the line of the user's file."""

    problem: str


EXAMPLE_READY = Ready(required=("completions", "answer"), accepted=None)
EXAMPLE_VALUES = Values(values=(1.0, 0.0, "None"))
EXAMPLE_FAILURE = Failure(problem="raised ZeroDivisionError: division by zero (line 3)")

Request = tuple[dict[str, Any], float]
"""The function's arguments, and the seconds after which this process ends itself: for a caller that was
killed while the function hung."""


def serve(path: str, function: str, descriptor: str) -> None:
    """Import the function, say so, then answer requests until the other end closes."""
    connection: Connection[Ready | Values | Failure, Request] = Connection(int(descriptor))
    try:
        target = _imported(Path(path), function)
        connection.send(_signature(target))
    except BaseException as error:  # noqa: BLE001  # SystemExit too: user code may call sys.exit
        connection.send(Failure(_problem(error, path)))
        return
    while True:
        try:
            arguments, deadline = connection.recv()
        except (EOFError, ConnectionError):
            return
        signal.setitimer(signal.ITIMER_REAL, deadline)
        answer = _call(target, arguments, path)
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.send(answer)


def _imported(path: Path, function: str) -> Callable[..., Any]:
    name = f"reward_function_{path.stem}"  # the file may be called rewards.py, or json.py
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))
    spec.loader.exec_module(module)
    target: Callable[..., Any] | None = getattr(module, function, None)
    if target is None or not callable(target):
        own = [
            name
            for name, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module.__name__
        ]
        raise LookupError(f"there is no function `{function}` in it; it has {', '.join(own) or 'none'}")
    return target


def _signature(target: Callable[..., Any]) -> Ready:
    parameters = inspect.signature(target).parameters.values()
    named = [each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters)
    return Ready(
        required=tuple(each.name for each in named if each.default is each.empty),
        accepted=None if takes_all else frozenset(each.name for each in named),
    )


def _call(target: Callable[..., Any], arguments: dict[str, Any], path: str) -> Values | Failure:
    try:
        result = target(**arguments)
        if inspect.iscoroutine(result):
            result = asyncio.run(result)
        if isinstance(result, str) or not isinstance(result, Iterable):
            return Failure(f"returned {type(result).__name__} ({str(result)[:80]}), not a list of numbers")
        return Values(tuple(_plain(value) for value in result))
    except BaseException as error:  # noqa: BLE001
        return Failure(_problem(error, path))


def _plain(value: Any) -> float | str:
    """A number as a float, NumPy's and torch's included."""
    item = getattr(value, "item", None)
    number = item() if callable(item) else value
    return float(number) if isinstance(number, int | float) else repr(value)[:80]


def _problem(error: BaseException, path: str) -> str:
    own = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    line = f" (line {own[-1]})" if own else ""
    return f"raised {type(error).__name__}: {str(error)[:400]}{line}"
