"""A user's reward function, with TRL's signature, run in a process of its own.

A process, because nothing else ends a function that hangs: a thread goes on burning its core, and a regular
expression that runs away holds the interpreter's lock, so the caller would hang with it. And behind walls, because
its code may be anyone's (rewards/walls.py). There is one process per RewardFunction; it is killed on time-out, and
ends with its owner.
"""

import math
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.schema import LARGEST_REWARD
from rewards.errors import RewardError, RewardLost, TaskError
from rewards.messages import Failure, Ready, Values
from rewards.prompts import Prompt, TokenIds
from rewards.walls import Walled

IMPORT_TIMEOUT = 120.0
"""Seconds the user's file may take to import (torch alone can take 20)."""

GIVEN = ("prompts", "completions", "completion_ids", "trainer_state", "log_metric", "log_extra")
"""Arguments that every call has, besides the data set's columns."""

MODEL_FILE = Path(__file__).with_name("reward_model.py")

MODEL_TIMEOUT = 600.0
"""Seconds a reward model may take to load."""


@dataclass(frozen=True)
class Rewards:
    """What a function says of completions. values: of each, None where it says nothing. metrics, extra: see
    `rewards.messages.Values`."""

    values: tuple[float | None, ...]
    metrics: Mapping[str, float]
    extra: Mapping[str, tuple[str, ...]]


EXAMPLE_REWARDS = Rewards((1.0, None), {"near": 0.5}, {"answer": ("3", "4")})


class RewardFunction:
    """`path/to/file.py:function`, called with `prompts`, `completions`, `completion_ids` and every column; or a
    reward model, by name (rewards/reward_model.py).

    As in TRL, every argument is a list with one entry for each completion, columns repeated; completions are
    texts when the data set's prompt is text, else `[{"role": "assistant", "content": text}]`. Functions
    without **kwargs get the arguments they name; `async def` functions are awaited, and a class with `__call__` is
    made without arguments. None means that the function does not apply. `log_metric(name, value)` and
    `log_extra(column, values)` are as in TRL; of `trainer_state` there is `global_step`, the updates made.

    Sending it to another process is cheap; there it starts a process of its own at the first call.
    """

    def __init__(self, spec: str, timeout: float, environment: Sequence[str] = ()) -> None:
        self.spec = spec
        self.timeout = timeout
        self.environment = tuple(environment)
        self.is_model = ".py:" not in spec
        self.name = spec.rpartition("/" if self.is_model else ":")[2]
        self._started: tuple[Walled, Ready] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return RewardFunction, (self.spec, self.timeout, self.environment)

    def check(self, columns: Collection[str], held_out: bool = False) -> None:
        """Import the function and see that the data set has what it asks for. held_out: the columns are those of the
        held-out prompts. Raises TaskError."""
        _, ready = self._start()
        given = (*GIVEN, *columns, *(["model"] if self.is_model else []))
        missing = [name for name in ready.required if name not in given]
        if missing:
            which = "the held-out prompts; they have" if held_out else "the data set; it has"
            raise TaskError(
                f"task.reward: {self.spec} requires the argument `{missing[0]}`, which is not a column of "
                f"{which} {', '.join(columns) or 'none besides prompt'}. Add the column, or give the "
                "argument a default."
            )

    def __call__(
        self, prompt: Prompt, texts: Sequence[str], token_ids: Sequence[TokenIds], policy_version: int = 0
    ) -> Rewards:
        """The reward of each text, all of them completions of `prompt`. Raises RewardError; RewardLost where the next
        call starts another process."""
        walled, ready = self._start()
        arguments = _arguments(prompt, texts) | ({"model": self.spec} if self.is_model else {})
        if ready.accepted is not None:
            arguments = {name: value for name, value in arguments.items() if name in ready.accepted}
        if ready.accepted is None or "completion_ids" in ready.accepted:  # which may be millions
            import numpy as np

            arguments["completion_ids"] = [np.asarray(ids).tolist() for ids in token_ids]
        arguments["trainer_state"] = {"global_step": policy_version}
        match walled.ask(arguments, len(texts), self.timeout):
            case Values(values, metrics, extra):
                columns = {name: column for name, column in extra.items() if len(column) == len(texts)}
                return Rewards(self._numbers(values, prompt, texts), metrics, columns)
            case Failure(problem):
                remedy = "Correct the function, or the data it fails on."
            case _:
                problem = f"did not return within {self.timeout:g} s and was ended"
                remedy = "Make it faster, or raise task.reward_timeout."
                walled.end()
        error = self._error(problem, prompt, texts, remedy + _printed(walled))
        if walled.ended:
            self._started = None
            raise RewardLost(str(error))
        raise error

    def close(self) -> None:
        """End the process; the next call starts another."""
        if self._started is not None:
            self._started[0].end()
            self._started = None

    def _start(self) -> tuple[Walled, Ready]:
        if self._started is None:
            file, _, function = (f"{MODEL_FILE}:scores" if self.is_model else self.spec).rpartition(":")
            path = Path(file).expanduser().absolute()
            if not path.is_file():
                raise TaskError(
                    f"task.reward: {self.spec}: there is no file {path}. Paths start at the working directory; write "
                    "path/to/file.py:function."
                )
            walled = Walled(path, function, f"{path.name}:{function}", self.environment)
            match walled.reply(IMPORT_TIMEOUT):
                case Ready() as ready:
                    self._started = walled, ready
                    self._load(walled)
                    return self._started
                case Failure(problem):
                    remedy = "Correct the file, or name another function."
                case _:
                    problem = f"was not imported within {IMPORT_TIMEOUT:g} s"
                    remedy = "Keep slow work out of the file's top level."
            walled.end()
            raise TaskError(f"task.reward: {self.spec} cannot be used: it {problem}. {remedy}{_printed(walled)}")
        return self._started

    def _load(self, walled: Walled) -> None:
        """Has a reward model loaded, which takes longer than a call. Raises TaskError."""
        if not self.is_model:
            return
        match walled.ask({"prompts": [], "completions": [], "model": self.spec}, 0, MODEL_TIMEOUT):
            case Values():
                return
            case Failure(problem):
                pass
            case _:
                problem = f"did not load within {MODEL_TIMEOUT:g} s"
        walled.end()
        self._started = None
        raise TaskError(
            f"task.reward: {self.spec}, which is no path/to/file.py:function and so the name of a reward model, "
            f"cannot be used: it {problem}. Name a sequence classifier with one label, as a folder or on the hub."
        )

    def _numbers(
        self, values: tuple[float | str | None, ...], prompt: Prompt, texts: Sequence[str]
    ) -> tuple[float | None, ...]:
        if len(values) != len(texts):
            number = f"{len(values)}" if len(values) < len(texts) else f"more than {len(texts)}"
            raise self._error(
                f"returned {number} values for {len(texts)} completions", prompt, texts,
                "Return one number for each of `completions`.",
            )  # fmt: skip
        numbers: list[float | None] = []
        for value, text in zip(values, texts, strict=True):
            if value is None:
                numbers.append(None)
                continue
            if isinstance(value, str) or not math.isfinite(value):
                raise self._error(
                    f"returned {value}, which is not a finite number,", prompt, [text],
                    "Return a number for every completion, such as 0.0 where nothing can be said.",
                )  # fmt: skip
            if abs(value) > LARGEST_REWARD:
                raise self._error(
                    f"returned {value:g}, and rewards are from {-LARGEST_REWARD:,.0f} to {LARGEST_REWARD:,.0f},",
                    prompt, [text],
                    "Scale it; advantages are of the rewards' differences in units of their spread.",
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


def _arguments(prompt: Prompt, texts: Sequence[str]) -> dict[str, Any]:
    plain = prompt.text is not None
    asked: object = prompt.text if plain else [dict(message) for message in prompt.messages]
    columns: Mapping[str, Any] = prompt.columns
    return {
        "prompts": [asked] * len(texts),
        "completions": [text if plain else [{"role": "assistant", "content": text}] for text in texts],
        **{name: [value] * len(texts) for name, value in columns.items()},
    }


def _printed(walled: Walled) -> str:
    return f" It printed: {walled.printed}" if walled.printed else ""


def _short(text: str) -> str:
    return textwrap.shorten(text[:1000], 120, placeholder="...")
