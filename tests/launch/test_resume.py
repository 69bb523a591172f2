"""Whether a run that goes on would be the same run."""

import json
from pathlib import Path
from typing import Any

import pytest

from configs.errors import ConfigError
from configs.loading import load
from configs.schema import Config
from launch import resume
from launch.__main__ import main
from launch.checkpoint import Checkpoint, Record
from launch.prepare import Prepared
from rewards.prompts import Prompt
from rewards.task import Task
from tests.trainer.test_state import begun, run
from trainer.update.model_shape import EXAMPLE_SHAPE


def config(**sections: Any) -> Config:
    values: dict[str, Any] = {"task": {"name": "comparison"}, "run": {"max_steps": 10}}
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return Config.model_validate(values)


def prepared(model: Path, settings: Config, question: str = "Is 1 greater than 2?") -> Prepared:
    prompts = (Prompt("p", ({"role": "user", "content": question},), {}, tuple(map(ord, question)), question),)
    task: Any = Task(prompts, 1.0, None)  # type: ignore[arg-type]
    return Prepared(settings, 0, str(model), None, 100, EXAMPLE_SHAPE, 0, task)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "model.safetensors").write_bytes(bytes(10))
    return tmp_path / "model"


def refusal(before: Prepared, now: Prepared) -> list[str]:
    """Sentences of warning, if it may go on."""
    record = Record(begun(run()), None, resume.settings_json(before.config), resume.identity(before), {}, ())
    return list(resume.refuse_another_run(Checkpoint(Path("checkpoint"), record), now.config, resume.identity(now)))


@pytest.mark.parametrize(
    "sections",
    [
        {
            "run": {
                "max_steps": 20,
                "max_seconds": 5,
                "target_reward": 0.5,
                "checkpoint_steps": 3,
                "keep_checkpoints": 5,
            }
        },
        {"tracking": {"tensorboard": False}, "cluster": {"sample_timeout": 7}},
        {"engine": {"engines": 3, "threads": 2}, "training": {"ranks": 2, "threads": 1}},
    ],
)
def test_limits_and_processes_may_change(model: Path, sections: dict[str, Any]) -> None:
    assert refusal(prepared(model, config()), prepared(model, config(**sections))) == []


@pytest.mark.parametrize(
    ("sections", "name"),
    [
        (
            {"training": {"learning_rate": 3e-5}},
            "training.learning_rate: 3e-05 is not what the run began with, 1e-05",
        ),
        ({"training": {"zero_stage": 2}}, "training.zero_stage"),
        ({"sampling": {"temperature": 0.5, "stop": ["x"]}}, "sampling.temperature"),
        ({"run": {"evaluation_prompts": 7}}, "run.evaluation_prompts"),
        ({"task": {"size": 3}}, "task.size"),
    ],
)
def test_what_is_learnt_may_not(model: Path, sections: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        refusal(prepared(model, config()), prepared(model, config(**sections)))


def test_the_course_of_the_learning_rate_is_not_a_limit(model: Path) -> None:
    falling = {"lr_scheduler_type": "cosine"}
    before = prepared(model, config(training=falling))
    with pytest.raises(ConfigError, match=r"run\.max_steps: 20 is not what the run began with, 10"):
        refusal(before, prepared(model, config(training=falling, run={"max_steps": 20})))
    assert refusal(before, prepared(model, config(training=falling, run={"max_seconds": 20}))) == []


def test_a_setting_that_came_later_was_its_default(model: Path) -> None:
    before = prepared(model, config())
    values = json.loads(resume.settings_json(before.config))
    del values["run"]["evaluation_prompts"], values["signal"]
    record = Record(begun(run()), None, json.dumps(values), resume.identity(before), {}, ())
    found = Checkpoint(Path("checkpoint"), record)
    now = resume.identity(before)
    assert list(resume.refuse_another_run(found, before.config, now)) == []
    with pytest.raises(ConfigError, match=r"signal\.replay"):
        resume.refuse_another_run(found, config(signal={"replay": 0.5}), now)


def test_other_data_and_another_model_are_refused(model: Path, tmp_path: Path) -> None:
    before = prepared(model, config())
    with pytest.raises(ConfigError, match="prompts are not those that the run began with"):
        refusal(before, prepared(model, config(), "Is 1 greater than 3?"))
    then = resume.identity(before)
    (model / "model.safetensors").write_bytes(bytes(11))
    assert resume.identity(before)["model"] != then["model"]
    (model / "model.safetensors").write_bytes(bytes(10))
    (model / "config.json").write_text("[]")
    assert resume.identity(before)["model"] != then["model"]


def test_another_reward_function_is_told(model: Path, tmp_path: Path) -> None:
    """Correcting it may be why the run goes on."""
    path = tmp_path / "mine.py"
    task = {"name": None, "dataset": "mine.jsonl", "reward": f"{path}:f"}
    path.write_text("1")
    then = prepared(model, config(task=task))
    record = Record(begun(run()), None, resume.settings_json(then.config), resume.identity(then), {}, ())
    path.write_text("2")
    said = list(resume.refuse_another_run(Checkpoint(tmp_path, record), then.config, resume.identity(then)))
    assert said == ["The file of task.reward has changed: what follows is judged by what it says now."]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--resume"], "--resume : it must be a run's folder"),
        (["--resume", "nowhere"], "--resume nowhere: it must be a run's folder, with its config.yaml"),
        (["--resume=nowhere", "--run.max_steps", "3"], "--resume nowhere: it must be"),
    ],
)
def test_a_folder_that_is_no_runs_is_refused(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_settings_after_resume_win_over_the_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tmp_path / "config.yaml"
    recipe.write_text("task: {name: comparison}\nrun: {max_steps: 3}\n")
    asked: list[tuple[Config, Path | None]] = []

    def train(settings: Config, folder: Path | None) -> int:
        asked.append((settings, folder))
        return 0

    monkeypatch.setattr("launch.train.train", train)
    assert main(["train", "--resume", str(tmp_path), "--run.max_steps", "9"]) == 0
    assert main(["train", str(recipe), "--run.max_steps=7", f"--resume={tmp_path}"]) == 0
    assert main(["train", str(recipe)]) == 0
    assert [(settings.run.max_steps, folder) for settings, folder in asked] == [
        (9, tmp_path),
        (7, tmp_path),
        (3, None),
    ]
    assert load(recipe).run.resume == "never"
