"""A run's folder, read back: what `launch.logger.run_folder` wrote, of a run that goes on or was killed too."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from configs.errors import ConfigError
from configs.loading import load
from configs.schema import Config
from trainer.ending import Target
from trainer.signal.kinds import Kind


@dataclass(frozen=True)
class Sampled:
    """One of a group's most frequent completions. count: samples. outcome: of its verdict."""

    text: str
    count: int
    reward: float
    outcome: str


@dataclass(frozen=True)
class Rollout:
    """A prompt in one step. reward: mean over the group's samples. distinct: completions different from one another.

    completions: the most frequent ones, most frequent first.
    """

    step: int
    kind: Kind
    reward: float
    temperature: float
    samples: int
    distinct: int
    completions: tuple[Sampled, ...]


@dataclass(frozen=True)
class Scores:
    """An evaluation. reward_sampled, accuracy_greedy: means over prompts."""

    reward_sampled: float
    accuracy_greedy: float
    prompts_solved: int
    prompts: int


@dataclass(frozen=True)
class Evaluated:
    """An evaluation in the course of a run. pass_at: k -> chance of a right one among k samples."""

    step: int
    on: str
    reward_sampled: float
    accuracy_greedy: float
    pass_at: Mapping[int, float]


@dataclass(frozen=True)
class Ending:
    """How the run ended. cause, advice: None for a run that ended well. alarms, restarts: one line each; restarts are
    of processes that were replaced."""

    target: Target
    verdict: str
    cause: str | None
    advice: str | None
    steps: int
    seconds: float
    before: Scores
    after: Scores
    alarms: tuple[str, ...]
    restarts: tuple[str, ...]


@dataclass(frozen=True)
class RunRecord:
    """A run, as far as it got.

    config: None when its config.yaml cannot be read; `notes` says so.
    metrics: by name as in `StepMetrics`, [steps]; nan where metrics.jsonl has null or lacks the name.
    rollouts: prompt id -> its rollouts in order.
    evaluations: in order. on: "train" or, of held-out prompts, "eval".
    questions: prompt id -> the last user message, for the prompts that summary.json has.
    ending: None while there is no summary.json.
    notes: what could not be read.
    """

    name: str
    config: Config | None
    metrics: Mapping[str, NDArray[np.float64]]
    rollouts: Mapping[str, tuple[Rollout, ...]]
    evaluations: tuple[Evaluated, ...]
    questions: Mapping[str, str]
    ending: Ending | None
    notes: tuple[str, ...]

    @property
    def steps(self) -> int:
        """Steps in metrics.jsonl."""
        return len(self.metric("step"))

    @property
    def base_temperature(self) -> float:
        """What prompts are sampled at that no ladder has raised: as configured, or else the lowest there was."""
        if self.config:
            return self.config.sampling.temperature
        return min((one.temperature for rollouts in self.rollouts.values() for one in rollouts), default=float("nan"))

    def metric(self, name: str) -> NDArray[np.float64]:
        """[steps], all nan for a name that the run does not have."""
        length = len(self.metrics.get("step", ()))
        return self.metrics.get(name, np.full(length, np.nan))


EXAMPLE_RUN = RunRecord(
    name="comparison",
    config=None,
    metrics={"step": np.array([1.0, 2.0]), "reward_mean": np.array([-0.5, 1.0]), "loss": np.array([np.nan, 0.1])},
    rollouts={
        "comparison-7-3": (
            Rollout(1, "collapsed", -0.5, 1.0, 128, 1, (Sampled("No", 128, -0.5, "wrong"),)),
            Rollout(
                2,
                "learning",
                0.25,
                1.4,
                128,
                2,
                (Sampled("Yes", 64, 1.0, "correct"), Sampled("No", 64, -0.5, "wrong")),
            ),
        )
    },
    evaluations=(Evaluated(0, "eval", -0.5, 0.5, {1: 0.4, 128: 0.9}),),
    questions={"comparison-7-3": "Is 7 greater than 3? Answer Yes or No."},
    ending=None,
    notes=("config.yaml: there is no such configuration file.",),
)


def read_run(path: Path, name: str) -> RunRecord:
    """The run in the folder `path`, to be called `name`. Raises ConfigError: no run, or a line that is broken."""
    try:
        found, what = path.is_dir(), "is a file" if path.exists() else "does not exist"
    except (OSError, ValueError) as error:  # a name that is too long, or has a NUL
        found, what = False, f"is no name of a folder ({error})"
    if not found:
        raise ConfigError(f"{path} {what}; it must be the folder of a run, for example runs/comparison.")
    metrics_file, summary_file = path / "metrics.jsonl", path / "summary.json"
    if not metrics_file.exists() and not summary_file.exists():
        raise ConfigError(
            f"{path} holds no metrics.jsonl, so it is not the folder of a run, or the first step is not done yet. "
            f"Name a run's folder, for example runs/comparison, or wait for the step."
        )
    notes: list[str] = []
    metrics = _columns(list(_rows(metrics_file, notes)))
    rollouts: dict[str, list[Rollout]] = {}
    for where, row in _rows(path / "groups.jsonl", notes):
        rollouts.setdefault(_text(where, row, "prompt_id"), []).append(_rollout(where, row))
    summary = _summary(summary_file)
    return RunRecord(
        name=name,
        config=_config(path / "config.yaml", notes),
        metrics=metrics,
        rollouts={prompt_id: tuple(of_prompt) for prompt_id, of_prompt in rollouts.items()},
        evaluations=tuple(_evaluated(where, row) for where, row in _rows(path / "evaluations.jsonl", notes)),
        questions=_questions(summary_file, summary),
        ending=_ending(summary_file, summary),
        notes=tuple(notes),
    )


KINDS: Mapping[str, Kind] = {kind: kind for kind in get_args(Kind)}

LARGEST, LARGEST_WHOLE = sys.float_info.max, 2**53
"""Numbers that a chart can have."""

Row = Mapping[str, Any]
Value = TypeVar("Value")


def _rows(path: Path, notes: list[str]) -> Iterator[tuple[str, Row]]:
    """Every line of the file with its place. A last line that is being written is noted and left out."""
    if not path.exists():
        return
    lines = _read(path).split("\n")
    unfinished = lines.pop()  # what follows the last line break
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        yield where, _object(where, line)
    if unfinished:
        notes.append(f"{path.name}, line {len(lines) + 1}: the line is not finished and was left out.")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error}. It must be the file that the run wrote; correct its permissions."
        ) from None


def _object(where: str, text: str) -> Row:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{where}: this is not JSON: {error}. It must be what the run wrote; restore it, or remove it."
        ) from None
    if not isinstance(value, dict):
        raise ConfigError(
            f"{where}: {_shown(value)} is not allowed; it must be a JSON object. Restore it, or remove it."
        )
    return value


def _columns(rows: Sequence[tuple[str, Row]]) -> dict[str, NDArray[np.float64]]:
    names = dict.fromkeys(name for _, row in rows for name in row)
    for where, row in rows:
        _whole(where, row, "step")
    return {
        name: np.array([_number(where, row, name) if name in row else np.nan for where, row in rows])
        for name in names
    }


def _rollout(where: str, row: Row) -> Rollout:
    kind = KINDS.get(_text(where, row, "kind"))
    if kind is None:
        raise _refused(where, "kind", row["kind"], f"one of {', '.join(KINDS)}")
    return Rollout(
        step=_whole(where, row, "step"),
        kind=kind,
        reward=_number(where, row, "reward"),
        temperature=_number(where, row, "temperature"),
        samples=_whole(where, row, "samples"),
        distinct=_whole(where, row, "distinct"),
        completions=tuple(
            Sampled(
                _text(where, one, "text"),
                _whole(where, one, "count"),
                _number(where, one, "reward"),
                _text(where, one, "reason"),
            )
            for one in _list(where, row, "completions")
        ),
    )


def _evaluated(where: str, row: Row) -> Evaluated:
    chances: Row = _typed(where, row, "pass_at", dict, "an object")
    if not all(name.isdecimal() and len(name) < 10 for name in chances):
        raise _refused(where, "pass_at", chances, "chances by numbers of samples")
    return Evaluated(
        step=_whole(where, row, "step"),
        on=_text(where, row, "on"),
        reward_sampled=_number(where, row, "reward_sampled"),
        accuracy_greedy=_number(where, row, "accuracy_greedy"),
        pass_at={int(name): _number(where, chances, name) for name in chances},
    )


def _config(path: Path, notes: list[str]) -> Config | None:
    try:
        return load(path)
    except ConfigError as error:  # as of an older version; the report needs little of it
        notes.append(f"config.yaml cannot be read, so settings are left out: {error}")
        return None


def _summary(path: Path) -> Row | None:
    if not path.exists():
        return None
    return _object(str(path), _read(path))


def _questions(path: Path, summary: Row | None) -> dict[str, str]:
    if summary is None:
        return {}
    return {
        _text(str(path), row, "prompt_id"): _text(str(path), row, "question")
        for row in _list(str(path), summary, "table")
    }


def _ending(path: Path, summary: Row | None) -> Ending | None:
    if summary is None:
        return None
    where = str(path)
    stopped = _text(where, summary, "stopped")
    return Ending(
        target=Target(_optional(_flag, where, summary, "reached")),
        verdict=_optional(_text, where, summary, "verdict") or stopped,
        cause=_optional(_text, where, summary, "cause"),
        advice=_optional(_text, where, summary, "advice"),
        steps=_whole(where, summary, "steps"),
        seconds=_number(where, summary, "seconds"),
        before=_scores(where, _typed(where, summary, "before", dict, "an object")),
        after=_scores(where, summary),
        alarms=tuple(_text(where, alarm, "text") for alarm in _list(where, summary, "alarms")),
        restarts=tuple(_text(where, one, "text") for one in _list(where, {"restarts": [], **summary}, "restarts")),
    )


def _scores(where: str, row: Row) -> Scores:
    return Scores(
        _number(where, row, "reward_sampled"),
        _number(where, row, "accuracy_greedy"),
        _whole(where, row, "prompts_solved"),
        _whole(where, row, "prompts"),
    )


def _number(where: str, row: Row, name: str) -> float:
    """nan for null: JSON has no other word for it."""
    value = row.get(name, "missing")
    if value is None:
        return float("nan")
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > LARGEST:
        raise _refused(where, name, value, "a number or null")
    return float(value)


def _whole(where: str, row: Row, name: str) -> int:
    number = row.get(name, "missing")
    if isinstance(number, bool) or not isinstance(number, int) or abs(number) > LARGEST_WHOLE:
        raise _refused(where, name, number, "a whole number")
    return number


def _text(where: str, row: Row, name: str) -> str:
    text: str = _typed(where, row, name, str, "text")
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # half a pair cannot be written


def _flag(where: str, row: Row, name: str) -> bool:
    flag: bool = _typed(where, row, name, bool, "true or false")
    return flag


def _list(where: str, row: Row, name: str) -> list[Row]:
    rows: list[Row] = _typed(where, row, name, list, "a list of objects")
    if not all(isinstance(one, dict) for one in rows):
        raise _refused(where, name, rows, "a list of objects")
    return rows


def _optional(read: Callable[[str, Row, str], Value], where: str, row: Row, name: str) -> Value | None:
    return None if row.get(name) is None else read(where, row, name)


def _typed(where: str, row: Row, name: str, kind: type, words: str) -> Any:
    if not isinstance(row.get(name), kind):
        raise _refused(where, name, row.get(name, "missing"), words)
    return row[name]


def _refused(where: str, name: str, value: object, allowed: str) -> ConfigError:
    return ConfigError(
        f"{where}: {name} is {_shown(value)}; it must be {allowed}. Restore what the run wrote, or remove the line."
    )


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
