"""The folder of a run: what it was asked, what every step did, how it ended, and the model."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from configs.loading import dump
from configs.schema import Config
from trainer.ending import Result
from trainer.evaluation import Evaluation
from trainer.metrics import StepMetrics, of_groups
from trainer.signal.treatment import Treated

MOST_FREQUENT = 5
"""Completions of a group that groups.jsonl keeps."""


@dataclass(frozen=True)
class RunFolder:
    """`runs/NAME/`: config.yaml, metrics.jsonl, groups.jsonl, tensorboard/, model/ and summary.json.

    Every write is complete when the call returns, so a run that is killed leaves all of its steps behind.
    Numbers that JSON cannot hold (nan, inf) are written as null.
    """

    path: Path

    @classmethod
    def create(cls, config: Config) -> "RunFolder":
        """Make the run's folder and write config.yaml into it. Raises ConfigError.

        A folder that holds anything is left alone: the next free of NAME-2, NAME-3 and so on is taken.
        """
        directory, name = Path(config.run.directory), config.run.name or "run"
        number = 1
        while True:
            path = directory / (name if number == 1 else f"{name}-{number}")
            try:
                if _claimed(path, dump(config)):
                    return cls(path)
            except OSError as error:
                raise ConfigError(
                    f"run.directory: {config.run.directory} cannot hold the run's folder: {error}. It "
                    "must be a folder that you may write to. Choose another, or correct its permissions."
                ) from None
            number += 1

    @property
    def model_path(self) -> Path:
        """Where the trained model goes; made by whoever writes it."""
        return self.path / "model"

    @property
    def tensorboard_path(self) -> Path:
        return self.path / "tensorboard"

    def step(self, metrics: StepMetrics, groups: Sequence[Treated]) -> None:
        """Append a line to metrics.jsonl, and one for each group to groups.jsonl."""
        rows = [_group_row(metrics.step, one) for one in groups]
        _append(self.path / "groups.jsonl", rows)
        _append(self.path / "metrics.jsonl", [asdict(metrics)])

    def summary(self, result: Result, config: Config) -> None:
        """Write summary.json, whole or not at all."""
        path = self.path / "summary.json"
        unfinished = path.with_name("summary.json.unfinished")
        unfinished.write_text(_json(_summary(result, config), indent=2) + "\n", encoding="utf-8")
        unfinished.replace(path)


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
            }
            for completion, verdict in judged[:MOST_FREQUENT]
        ],
    }


def _summary(result: Result, config: Config) -> dict[str, Any]:
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
        "alarms": [asdict(alarm) for alarm in result.alarms],
        **_evaluation(result.after),
        "before": _evaluation(result.before),
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
        "prompts_solved": evaluation.prompts_solved,
        "prompts": len(evaluation.prompts),
    }


def _append(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(f"{_json(row)}\n" for row in rows))


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    """`value` with None for every number that JSON cannot hold."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
