"""A user's reward function, with TRL's signature, run in a process of its own.

A process, because nothing else ends a function that hangs: a thread goes on burning its core, and a regular
expression that runs away holds the interpreter's lock, so the caller would hang with it. There is one process
per RewardFunction; it is killed on time-out and ends by itself with its owner.
"""

import math
import os
import signal
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rewards.errors import RewardError, TaskError
from rewards.prompts import Prompt
from rewards.worker import Failure, Ready, Request, Values

IMPORT_TIMEOUT = 120.0
"""Seconds the user's file may take to import (torch alone can take 20)."""

GIVEN = ("prompts", "completions", "completion_ids")
"""Arguments that every call has, besides the data set's columns."""


class RewardFunction:
    """`path/to/file.py:function`, called with `prompts`, `completions`, `completion_ids` and every column.

    As in TRL, every argument is a list with one entry for each completion, columns repeated; completions are
    texts when the data set's prompt is text, else `[{"role": "assistant", "content": text}]`. Functions
    without **kwargs get the arguments they name; `async def` functions are awaited. There is no
    `trainer_state`. None, TRL's "does not apply", is refused: no other function would judge that completion.

    Sending it to another process is cheap; there it starts a process of its own at the first call.
    """

    def __init__(self, spec: str, timeout: float) -> None:
        self.spec = spec
        self.timeout = timeout
        self._worker: _Worker | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return RewardFunction, (self.spec, self.timeout)

    def check(self, columns: Collection[str]) -> None:
        """Import the function and see that the data set has what it asks for. Raises TaskError."""
        missing = [name for name in self._started().ready.required if name not in (*GIVEN, *columns)]
        if missing:
            raise TaskError(
                f"task.reward: {self.spec} requires the argument `{missing[0]}`, which is not a column of "
                f"the data set; it has {', '.join(columns) or 'none besides prompt'}. Add the column, or "
                "give the argument a default."
            )

    def __call__(self, prompt: Prompt, texts: Sequence[str], token_ids: Sequence[Sequence[int]]) -> tuple[float, ...]:
        """The reward of each text, all of them completions of `prompt`. Raises RewardError."""
        worker = self._started()
        arguments = _arguments(prompt, texts, token_ids)
        if worker.ready.accepted is not None:
            arguments = {name: value for name, value in arguments.items() if name in worker.ready.accepted}
        answer = worker.ask((arguments, 2 * self.timeout + 10), self.timeout)
        if isinstance(answer, Values):
            return self._numbers(answer.values, prompt, texts)
        if answer is None or worker.ended:
            self.close()
        if isinstance(answer, Failure):
            raise self._error(answer.problem, prompt, texts, "Correct the function, or the data it fails on.")
        raise self._error(
            f"did not return within {self.timeout:g} s and was ended", prompt, texts,
            "Make it faster, or raise task.reward_timeout.",
        )  # fmt: skip

    def close(self) -> None:
        """End the process; the next call starts another."""
        if self._worker is not None:
            self._worker.end()
            self._worker = None

    def _started(self) -> "_Worker":
        if self._worker is None:
            self._worker = _Worker(self.spec)
        return self._worker

    def _numbers(self, values: tuple[float | str, ...], prompt: Prompt, texts: Sequence[str]) -> tuple[float, ...]:
        if len(values) != len(texts):
            raise self._error(
                f"returned {len(values)} values for {len(texts)} completions", prompt, texts,
                "Return one number for each of `completions`.",
            )  # fmt: skip
        numbers = []
        for value, text in zip(values, texts, strict=True):
            if isinstance(value, str) or not math.isfinite(value):
                raise self._error(
                    f"returned {value}, which is not a finite number,", prompt, [text],
                    "Return a number for every completion, such as 0.0 where nothing can be said.",
                )  # fmt: skip
            numbers.append(value)
        return tuple(numbers)

    def _error(self, problem: str, prompt: Prompt, texts: Sequence[str], remedy: str) -> RewardError:
        asked = prompt.text if prompt.text is not None else prompt.messages[-1]["content"]
        shown = ", ".join(repr(_short(text)) for text in texts[:3])
        more = f" and {len(texts) - 3} more" if len(texts) > 3 else ""
        return RewardError(
            f"reward function {self.spec} {problem} for prompt {prompt.id} ({_short(asked)!r}) with "
            f"completions {shown}{more}. {remedy}"
        )


class _Worker:
    """The other process, and the pipe to it."""

    def __init__(self, spec: str) -> None:
        file, _, function = spec.rpartition(":")
        path = Path(file).expanduser().absolute()
        if not path.is_file():
            raise TaskError(
                f"task.reward: {spec}: there is no file {path}. Paths start at the working directory; write "
                "path/to/file.py:function."
            )
        self._connection: Connection[Request, Ready | Values | Failure]
        self._connection, other = Pipe()
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", "import sys, rewards.worker as w; w.serve(*sys.argv[1:])",
                 str(path), function, str(other.fileno())],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(_import_path())},
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the owner, whose end ends this process too
            )  # fmt: skip
        self._finalizer = weakref.finalize(self, _end, self._process, self._connection)
        match self._answer(IMPORT_TIMEOUT):
            case Ready() as ready:
                self.ready = ready
            case Failure(problem):
                self.end()
                raise TaskError(
                    f"task.reward: {spec} cannot be imported: it {problem}. Correct the file, or name "
                    "another function."
                )
            case _:
                self.end()
                raise TaskError(
                    f"task.reward: {spec} cannot be imported: it took over {IMPORT_TIMEOUT:g} s. Keep slow "
                    "work out of the file's top level."
                )

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def ask(self, request: Request, timeout: float) -> Ready | Values | Failure | None:
        """The answer; None when there is none in time."""
        try:
            self._connection.send(request)
        except (BrokenPipeError, ConnectionError):
            return self._died()
        return self._answer(timeout)

    def end(self) -> None:
        self._finalizer()

    def _answer(self, timeout: float) -> Ready | Values | Failure | None:
        try:
            return self._connection.recv() if self._connection.poll(timeout) else None
        except (EOFError, ConnectionError):
            return self._died()

    def _died(self) -> Failure:
        return Failure(f"ended its process (exit status {self._process.wait()})")


def _end(process: "subprocess.Popen[bytes]", connection: "Connection[Any, Any]") -> None:
    """Kill the process with whatever it started."""
    connection.close()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _import_path() -> list[str]:
    """The worker imports what this process can, this checkout first."""
    return [str(Path(__file__).parents[1]), *filter(None, sys.path)]


def _arguments(prompt: Prompt, texts: Sequence[str], token_ids: Sequence[Sequence[int]]) -> dict[str, Any]:
    plain = prompt.text is not None
    asked: object = prompt.text if plain else [dict(message) for message in prompt.messages]
    columns: Mapping[str, Any] = prompt.columns
    return {
        "prompts": [asked] * len(texts),
        "completions": [text if plain else [{"role": "assistant", "content": text}] for text in texts],
        "completion_ids": [[int(token) for token in ids] for ids in token_ids],
        **{name: [value] * len(texts) for name, value in columns.items()},
    }


def _short(text: str) -> str:
    return textwrap.shorten(text, 120, placeholder="...")
