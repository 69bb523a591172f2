"""The lessons of configs/lessons on a tiny model: each ends with its own verdict, and its healthy twin does not."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.end_to_end.kept import ALIKE, Kept
from tests.end_to_end.runs import ROOT, rows

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(300)]

LESSONS = ROOT / "configs" / "lessons"
CAUSES = {
    "temperature_trap": "temperature_trap",
    "learning_rate_too_low": "learning_rate_too_low",
    "learning_rate_too_high": "learning_rate_too_high",
    "format_unknown": "format_never_met",
    "echo": "unverifiable_reward",
    "pattern": "constant_reward",
    "completions_too_short": "truncated",
    "data_too_large": "data_too_large",
}
REFUSED = {
    "batch_larger_than_data": "sampling.prompts_per_step: 16 is larger than the data set: the task comparison has 8",
    "temperature_near_zero": "sampling.temperature: 0.01 is not allowed; it must be a number, at least 0.1",
}
HEALTHY = ["healthy", "format_unknown_healthy", "echo_healthy", "pattern_healthy"]
SPOILT = {
    "batch_larger_than_data": {"sampling.prompts_per_step"},
    "temperature_near_zero": {"sampling.temperature"},
    "temperature_trap": {"sampling.temperature", "signal.rescue"},
    "learning_rate_too_low": {"training.learning_rate"},
    "learning_rate_too_high": {"training.learning_rate"},
    "completions_too_short": {"sampling.max_completion_length"},
    "data_too_large": {"task.size", "run.max_steps"},
    "format_unknown": {"task.few_shot"},
    "echo": {"task.reward"},
    "pattern": {"task.dataset"},
}


def read(name: str) -> dict[str, Any]:
    """A lesson's settings, by their dotted names."""
    sections = yaml.safe_load((LESSONS / f"{name}.yaml").read_text(encoding="utf-8"))
    return {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}


def run(name: str, kept: Kept, model: str, tmp_path: Path) -> tuple[int, str, dict[str, Any]]:
    """Exit status, standard output and error, and summary.json. The model is small, not taught by examples, and needs
    a higher learning rate."""
    settings = {"model.path": model, "model.dtype": "float32", "run.directory": str(tmp_path)}
    settings |= {"training.threads": "1"} | {f"engine.{key}": str(value) for key, value in ALIKE.items()}
    if "task.name" in read(name):
        settings["task.few_shot"] = "0"
    if name == "format_unknown_healthy":
        settings["task.name"] = "comparison"  # whose format this model knows without examples
    if name == "learning_rate_too_high":
        # So small a model often ends where it says Yes to all questions, which pays more than it did at first.
        settings |= {"training.learning_rate": "0.2", "seed": "3"}
    elif name != "learning_rate_too_low":
        settings["training.learning_rate"] = "2e-3"
    arguments = [word for key, value in settings.items() for word in (f"--{key}", value)]
    status, out, err = kept.cohort("train", str(LESSONS / f"{name}.yaml"), *arguments, cwd=ROOT)
    path = tmp_path / name / "summary.json"
    return status, out + err, json.loads(path.read_text()) if path.exists() else {}


def test_every_recipe_in_the_folder_is_a_lesson_here() -> None:
    names = {path.stem for path in LESSONS.glob("*.yaml")}
    assert names == {*CAUSES, *REFUSED, *HEALTHY}


@pytest.mark.parametrize("name", SPOILT)
def test_a_lesson_differs_from_its_healthy_twin_in_nothing_but_its_point(name: str) -> None:
    twin = f"{name}_healthy" if f"{name}_healthy" in HEALTHY else "healthy"
    assert {key for key, _ in set(read(name).items()) ^ set(read(twin).items())} == SPOILT[name]


@pytest.mark.parametrize("name", REFUSED)
def test_a_lesson_is_refused(name: str, kept: Kept, model: str, tmp_path: Path) -> None:
    status, text, _ = run(name, kept, model, tmp_path)
    assert status == 2, text
    assert REFUSED[name] in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", CAUSES)
def test_a_lesson_ends_with_its_verdict(name: str, kept: Kept, model: str, tmp_path: Path) -> None:
    status, text, summary = run(name, kept, model, tmp_path)
    assert status == 3, text
    assert summary["cause"] == CAUSES[name], text
    assert summary["reached"] is False
    assert summary["verdict"] in text and summary["advice"] in text
    if name in ("echo", "data_too_large"):
        assert summary["steps"] == 0
    elif name != "learning_rate_too_low":
        metrics = rows(tmp_path / name / "metrics.jsonl")
        assert summary["steps"] <= 3 + max((row["step"] for row in metrics if row["groups_trained"]), default=0)


@pytest.mark.parametrize("name", HEALTHY)
def test_the_healthy_twin_is_left_alone(name: str, kept: Kept, model: str, tmp_path: Path) -> None:
    status, text, summary = run(name, kept, model, tmp_path)
    assert status in (0, 4), text  # the target is reached, or twelve steps are over
    assert (summary["cause"], summary["advice"]) == (None, None), text
    before = summary["before"]  # one may rise before the other, where a prompt is spread first
    assert any(summary[name] > before[name] for name in ("reward_sampled", "accuracy_greedy"))
    assert max(row["policy_shift"] for row in rows(tmp_path / name / "metrics.jsonl")) > 0.1
