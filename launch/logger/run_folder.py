"""The folder of a run: what it was asked, what every step did, how it ended, and the model."""

import fcntl
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from configs.loading import dump
from configs.schema import Config
from launch.errors import FolderError
from trainer.ending import Result
from trainer.evaluation import EvaluatedOn, Evaluation
from trainer.metrics import StepMetrics, of_groups
from trainer.signal.treatment import Treated

MOST_FREQUENT = 5
"""Completions of a group that groups.jsonl keeps."""


GROWING = ("evaluations.jsonl", "groups.jsonl", "metrics.jsonl")
"""Files that steps and evaluations add to."""

PATIENCE = 60.0
"""Seconds for which a write that fails is tried again."""


@dataclass(frozen=True)
class RunFolder:
    """`runs/NAME/`: config.yaml, metrics.jsonl, groups.jsonl, evaluations.jsonl, tensorboard/, checkpoints/, model/
    and summary.json.

    Every write is complete when the call returns, so a run that is killed leaves all of its steps behind.
    Numbers that JSON cannot hold (nan, inf) are written as null.

    tell: what is said while the disk is full. pending: lines of steps that could not be written yet, by file.
    """

    path: Path
    tell: Callable[[str], None] = lambda text: None
    pending: list[Mapping[str, str]] = field(default_factory=list)

    @classmethod
    def create(cls, config: Config) -> "RunFolder":
        """Make the run's folder and write config.yaml into it. Raises ConfigError.

        A folder that holds anything is left alone: the next free of NAME-2, NAME-3 and so on is taken.
        """
        number = 1
        while True:
            path = _path(config, number)
            try:
                if _claimed(path, dump(config)):
                    return cls(path)
            except OSError as error:
                raise _unusable(config, error) from None
            number += 1

    @classmethod
    def named(cls, config: Config) -> "RunFolder":
        """The folder with just the run's name, made if it is not there. Raises ConfigError: it cannot be, or is not a
        run's."""
        path = _path(config, 1)
        try:
            path.mkdir(parents=True, exist_ok=True)
            strange = any(path.iterdir()) and not (path / "config.yaml").exists()
        except OSError as error:
            raise _unusable(config, error) from None
        if strange:
            raise ConfigError(
                f"run.name: {path} is no run's folder: it holds other files, and no config.yaml. Choose another name."
            )
        return cls(path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While open, no other process may. Raises ConfigError: one has."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise ConfigError(
                f"{self.path}: another process is running this run. Wait for it, or end it, or choose another folder."
            ) from None
        finally:
            os.close(descriptor)

    @property
    def model_path(self) -> Path:
        """The trained model, once it is complete."""
        return self.path / "model"

    @property
    def checkpoints_path(self) -> Path:
        """Where checkpoints are."""
        return self.path / "checkpoints"

    @property
    def tensorboard_path(self) -> Path:
        return self.path / "tensorboard"

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of the files that steps and evaluations add to."""
        return {name: _size(self.path / name) for name in GROWING}

    def go_on(self, config: Config, sizes: Mapping[str, int]) -> None:
        """Back to when the files had these sizes, with this configuration. Raises ConfigError: they are shorter."""
        self.pending.clear()
        for name in GROWING:
            path, size = self.path / name, sizes.get(name, 0)
            if _size(path) < size:
                raise ConfigError(
                    f"{path} is shorter than it was at the checkpoint: lines are missing. Bring them back."
                )
            if _size(path) > size:
                os.truncate(path, size)
        if not sizes:
            shutil.rmtree(self.tensorboard_path, ignore_errors=True)
        _replace(self.path / "config.yaml", dump(config))
        (self.path / "summary.json").unlink(missing_ok=True)

    def step(self, metrics: StepMetrics, groups: Sequence[Treated]) -> None:
        """Append a line to metrics.jsonl, and one for each group to groups.jsonl. Raises FolderError."""
        rows = [_group_row(metrics.step, one) for one in groups]
        self.pending.append({"groups.jsonl": _lines(rows), "metrics.jsonl": _lines([metrics.named])})
        self._patiently(self.catch_up)

    def evaluation(self, on: EvaluatedOn, evaluation: Evaluation) -> None:
        """Append a line to evaluations.jsonl. Raises FolderError."""
        row = {"step": evaluation.step, "on": on, **_evaluation(evaluation)}
        self.pending.append({"evaluations.jsonl": _lines([row])})
        self._patiently(self.catch_up)

    def catch_up(self) -> None:
        """Write what could not be written yet. Raises OSError."""
        while self.pending:
            self._append(self.pending[0])
            del self.pending[0]

    def to_disk(self) -> None:
        """Returns when the lines of all steps are on the disk: a checkpoint counts on them. Raises OSError."""
        for path in filter(Path.exists, (self.path / name for name in GROWING)):
            with path.open("rb") as file:
                os.fsync(file.fileno())

    def summary(self, result: Result, config: Config, restarts: Sequence[str] = ()) -> None:
        """Write summary.json, whole or not at all. Raises FolderError."""
        text = _json(_summary(result, config, restarts), indent=2) + "\n"
        self._patiently(lambda: _replace(self.path / "summary.json", text))

    def take_model(self, folder: Path, card: str = "") -> None:
        """Make the model in `folder` the run's, without copying it where links are possible: whole or not at all.
        card: its README.md. Raises FolderError."""
        self._patiently(lambda: self._link(folder, card))

    def rewards(self) -> list[tuple[int, float]]:
        """(step, mean reward) of every step."""
        path = self.path / "metrics.jsonl"
        rows = map(json.loads, path.read_text(encoding="utf-8").splitlines() if path.exists() else ())
        return [(row["step"], row["reward_mean"]) for row in rows if row["reward_mean"] is not None]

    def _link(self, folder: Path, card: str) -> None:
        unfinished, old = self.path / "model.unfinished", self.path / "model.old"
        for left in (unfinished, old):
            shutil.rmtree(left, ignore_errors=True)
        try:
            shutil.copytree(folder, unfinished, copy_function=os.link)
        except shutil.Error:  # a file system without hard links
            shutil.rmtree(unfinished)
            shutil.copytree(folder, unfinished)
        if card:
            (unfinished / "README.md").write_text(card, encoding="utf-8")
        if self.model_path.exists():
            self.model_path.rename(old)
        unfinished.rename(self.model_path)
        shutil.rmtree(old, ignore_errors=True)

    def _append(self, texts: Mapping[str, str]) -> None:
        """Adds to all of the files, or to none."""
        sizes = self.sizes
        try:
            for name, text in texts.items():
                with (self.path / name).open("a", encoding="utf-8") as file:
                    file.write(text)
        except OSError:
            for name, size in sizes.items():
                if (self.path / name).exists():
                    os.truncate(self.path / name, size)
            raise

    def _patiently(self, write: Callable[[], None]) -> None:
        """Writes, again and again where that fails, for a minute."""
        deadline = time.monotonic() + PATIENCE
        told = False
        while True:
            try:
                return write()
            except OSError as error:
                if time.monotonic() >= deadline:
                    raise FolderError(
                        f"run.directory: {self.path} could not be written for {PATIENCE:g} seconds: {error}. Make "
                        f"room, or correct its permissions, and go on with `cohort train --resume {self.path}`."
                    ) from error
                if not told:
                    self.tell(f"{self.path} cannot be written: {error}. It is tried again for {PATIENCE:g} seconds.")
                told = True
                time.sleep(1.0)


def _path(config: Config, number: int) -> Path:
    name = config.run.name or "run"
    return Path(config.run.directory) / (name if number == 1 else f"{name}-{number}")


def _unusable(config: Config, error: OSError) -> ConfigError:
    return ConfigError(
        f"run.directory: {config.run.directory} cannot hold the run's folder: {error}. It must be a folder that you "
        "may write to. Choose another, or correct its permissions."
    )


def _claimed(path: Path, config_text: str) -> bool:
    """Make `path` the folder of this run, if no other run has it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            return False
        with (path / "config.yaml").open("x", encoding="utf-8") as file:
            file.write(config_text)
    except FileExistsError:  # a file of that name, or a run that was started at the same moment
        if not path.parent.is_dir():  # a link to nowhere, which no other name would help
            raise
        return False
    return True


def _group_row(step: int, treated: Treated) -> dict[str, Any]:
    scored = treated.scored
    group = scored.group
    shares = of_groups([scored])
    judged = list(zip(group.completions, scored.verdicts, strict=True))
    return {
        "step": step,
        "prompt_id": group.prompt.id,
        "kind": treated.kind,
        "reward": scored.reward_mean,
        "reward_std": scored.reward_std,
        "temperature": group.temperature,
        "policy_version": group.policy_version,
        "samples": group.num_generations,
        "distinct": len(group.completions),
        "distinct_share": shares.distinct,
        "correct": shares.correct,
        "malformed": shares.malformed,
        "truncated": shares.truncated,
        "completions": [
            {
                "text": completion.text,
                "count": completion.count,
                "reward": verdict.reward,
                "reason": verdict.outcome,
                **({"rewards": list(verdict.parts)} if verdict.parts else {}),
                **({"logged": dict(verdict.extra)} if verdict.extra else {}),
            }
            for completion, verdict in judged[:MOST_FREQUENT]
        ],
    }


def _summary(result: Result, config: Config, restarts: Sequence[str]) -> dict[str, Any]:
    before = {prompt.prompt_id: prompt for prompt in result.before.prompts}
    return {
        "reached": result.target.value,
        "target_reward": config.run.target_reward,
        "verdict": result.verdict,
        "cause": result.diagnosis.cause if result.diagnosis else None,
        "advice": result.diagnosis.advice if result.diagnosis else None,
        "stopped": result.stopped,
        "steps": result.steps,
        "seconds": result.seconds,
        "policy_version": result.policy_version,
        "without_best": asdict(result.without_best),
        "never_right": result.never_right,
        "alarms": [asdict(alarm) for alarm in result.alarms],
        "restarts": [{"text": restart} for restart in restarts],
        **_evaluation(result.after),
        "before": _evaluation(result.before),
        "held_out": {
            "before": _evaluation(result.held_out.before),
            "after": _evaluation(result.held_out.latest),
        }
        if result.held_out
        else None,
        "table": [
            {
                "prompt_id": now.prompt_id,
                "question": now.question,
                "greedy_before": before[now.prompt_id].greedy,
                "greedy_after": now.greedy,
                "greedy_reward_before": before[now.prompt_id].greedy_reward,
                "greedy_reward_after": now.greedy_reward,
                "sampled_reward_before": before[now.prompt_id].sampled_reward,
                "sampled_reward_after": now.sampled_reward,
                "solved": now.solved,
            }
            for now in result.after.prompts
        ],
    }


def _evaluation(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "reward_sampled": evaluation.reward_sampled,
        "accuracy_greedy": evaluation.accuracy_greedy,
        "pass_at": {str(k): chance for k, chance in evaluation.pass_at.items()},
        "prompts_solved": evaluation.prompts_solved,
        "prompts": len(evaluation.prompts),
    }


def _lines(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(f"{_json(row)}\n" for row in rows)


def _replace(path: Path, text: str) -> None:
    """Writes the file, whole or not at all."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    """`value` with None for every number that JSON cannot hold."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
