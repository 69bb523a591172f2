import json
import math
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from configs.errors import ConfigError
from configs.loading import load
from launch.errors import FolderError
from launch.logger.run_folder import MOST_FREQUENT, RunFolder
from tests.launch import samples
from trainer.diagnosis.sentences import EXAMPLE_DIAGNOSIS
from trainer.ending import Target
from trainer.metric import declared
from trainer.metrics import StepMetrics


def folder_in(directory: Path) -> RunFolder:
    return RunFolder.create(samples.config(run={"directory": str(directory)}))


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_configuration_is_there_at_once_and_loads_again(tmp_path: Path) -> None:
    config = samples.config(run={"directory": str(tmp_path / "runs")}, seed=7)
    folder = RunFolder.create(config)
    assert folder.path == tmp_path / "runs" / "sample"
    assert load(folder.path / "config.yaml") == config


def test_no_run_writes_into_the_folder_of_another(tmp_path: Path) -> None:
    names = [folder_in(tmp_path).path.name for _ in range(3)]
    assert names == ["sample", "sample-2", "sample-3"]


def test_an_empty_folder_is_used_and_a_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "sample").write_text("precious")
    (tmp_path / "sample-2").mkdir()
    assert folder_in(tmp_path).path.name == "sample-2"
    assert (tmp_path / "sample").read_text() == "precious"


def test_a_directory_that_cannot_hold_runs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"run\.directory: .*file cannot hold the run's folder"):
        folder_in(tmp_path / "file")


def test_every_step_is_on_disk_when_the_call_returns(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    for step in (1, 2):
        folder.step(samples.metrics(step), samples.groups())
        assert len(rows(folder.path / "metrics.jsonl")) == step
        assert len(rows(folder.path / "groups.jsonl")) == 2 * step
    first = rows(folder.path / "metrics.jsonl")[0]
    assert list(first) == [name for name, _ in declared(StepMetrics)]
    assert first["reward_mean"] == pytest.approx(-0.08)


def test_a_group_is_its_most_frequent_completions(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    folder.step(samples.metrics(3), samples.groups())
    two, seven = rows(folder.path / "groups.jsonl")
    assert two == {
        "step": 3,
        "prompt_id": "comparison-7-3",
        "kind": "learning",
        "reward": 0.625,
        "reward_std": pytest.approx(0.6495, abs=1e-4),
        "temperature": 1.0,
        "policy_version": 3,
        "samples": 128,
        "distinct": 2,
        "distinct_share": 2 / 128,
        "correct": 0.75,
        "malformed": 0.0,
        "truncated": 0.0,
        "completions": [
            {"text": "Yes", "count": 96, "reward": 1.0, "reason": "correct"},
            {"text": "No", "count": 32, "reward": -0.5, "reason": "wrong"},
        ],
    }
    assert seven["distinct"] == 7
    assert len(seven["completions"]) == MOST_FREQUENT
    assert seven["completions"][0]["count"] == 96


def test_a_summary_says_how_it_went(tmp_path: Path) -> None:
    config = samples.config(run={"directory": str(tmp_path)})
    folder = RunFolder.create(config)
    folder.summary(samples.result(), config)
    summary = json.loads((folder.path / "summary.json").read_text())
    table = summary.pop("table")
    assert summary == {
        "reached": True,
        "target_reward": 0.995,
        "verdict": "The mean sampled reward of all 4 prompts reached 0.995, from 0.062 to 1.000.",
        "cause": None,
        "advice": None,
        "stopped": "The mean sampled reward of all 4 prompts reached 0.995.",
        "steps": 10,
        "seconds": 112.0,
        "policy_version": 9,
        "without_best": {"mode": "spread", "why": "A built-in task tells right from wrong."},
        "never_right": [],
        "alarms": [{"name": "logprob_gap", "step": 2, "text": "logprob_gap is 0.3."}],
        "restarts": [],
        "reward_sampled": 1.0,
        "accuracy_greedy": 1.0,
        "pass_at": {"1": 1.0, "2": 1.0},
        "prompts_solved": 4,
        "prompts": 4,
        "before": {
            "reward_sampled": 0.0625,
            "accuracy_greedy": 0.5,
            "pass_at": {"1": 1.0, "2": 1.0},
            "prompts_solved": 0,
            "prompts": 4,
        },
        "held_out": None,
    }
    assert [row["prompt_id"] for row in table] == [f"comparison-{a}-{b}" for a, b in samples.PAIRS]
    assert (table[1]["greedy_before"], table[1]["greedy_after"]) == ("Yes", "No")
    assert sorted(path.name for path in folder.path.iterdir()) == ["config.yaml", "summary.json"]


@pytest.mark.parametrize(("target", "reached"), [(Target.NONE, None), (Target.REACHED, True), (Target.MISSED, False)])
def test_a_summary_says_whether_the_target_was_reached(tmp_path: Path, target: Target, reached: bool | None) -> None:
    config = samples.config(run={"directory": str(tmp_path)})
    folder = RunFolder.create(config)
    folder.summary(samples.result(target), config)
    assert json.loads((folder.path / "summary.json").read_text())["reached"] is reached


def test_a_summary_says_why_a_run_could_not_learn(tmp_path: Path) -> None:
    config = samples.config(run={"directory": str(tmp_path)})
    folder = RunFolder.create(config)
    folder.summary(replace(samples.result(), verdict=EXAMPLE_DIAGNOSIS.verdict, diagnosis=EXAMPLE_DIAGNOSIS), config)
    summary = json.loads((folder.path / "summary.json").read_text())
    found = {name: summary[name] for name in ("cause", "verdict", "advice")}
    assert found == asdict(EXAMPLE_DIAGNOSIS)


def test_numbers_that_json_cannot_hold_are_null(tmp_path: Path) -> None:
    config = samples.config(run={"directory": str(tmp_path)})
    folder = RunFolder.create(config)
    folder.step(samples.metrics(1, loss=math.nan, grad_norm=math.inf), samples.groups())
    folder.summary(replace(samples.result(), seconds=math.nan), config)
    row = rows(folder.path / "metrics.jsonl")[0]
    assert row["loss"] is None
    assert row["grad_norm"] is None
    assert json.loads((folder.path / "summary.json").read_text())["seconds"] is None


def test_a_link_to_nowhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").symlink_to(tmp_path / "unmounted")
    with pytest.raises(ConfigError, match=r"runs cannot hold the run's folder: .*File exists"):
        folder_in(tmp_path / "runs")


def test_a_full_disk_is_waited_for_and_no_line_is_torn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    folder = replace(folder_in(tmp_path), tell=told.append)
    folder.step(samples.metrics(1), samples.groups())
    before = folder.sizes
    real, left = Path.open, [3]

    def full(self: Path, *arguments: Any, **options: Any) -> Any:
        file = real(self, *arguments, **options)
        if self.name == "metrics.jsonl" and left[0]:
            left[0] -= 1
            file.write('{"step": 2, "torn')
            file.close()
            raise OSError(28, "No space left on device")
        return file

    slept: list[float] = []

    def sleep(seconds: float) -> None:
        assert folder.sizes == before
        slept.append(seconds)

    monkeypatch.setattr(Path, "open", full)
    monkeypatch.setattr(time, "sleep", sleep)
    folder.step(samples.metrics(2), samples.groups())
    assert [row["step"] for row in rows(folder.path / "metrics.jsonl")] == [1, 2]
    assert [row["step"] for row in rows(folder.path / "groups.jsonl")] == [1, 1, 2, 2]
    assert len(slept) == 3
    assert told == [
        f"{folder.path} cannot be written: [Errno 28] No space left on device. It is tried again for 60 seconds."
    ]


def test_a_disk_that_stays_full_ends_the_run_with_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_in(tmp_path)
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    def full(*arguments: Any, **options: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: now[0])
        patch.setattr(time, "sleep", sleep)
        patch.setattr(Path, "open", full)
        with pytest.raises(
            FolderError, match=r"could not be written for 60 seconds: .* go on with `cohort train --res"
        ):
            folder.step(samples.metrics(1), samples.groups())
    assert now[0] == 60
    folder.catch_up()  # a checkpoint that can be written after all has the step
    assert len(rows(folder.path / "metrics.jsonl")) == 1


def test_going_on_forgets_later_steps(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    folder.step(samples.metrics(1), samples.groups())
    sizes = folder.sizes
    folder.step(samples.metrics(2), samples.groups())
    folder.summary(samples.result(), samples.config())
    folder.go_on(samples.config(run={"max_steps": 77}), sizes)
    assert [row["step"] for row in rows(folder.path / "metrics.jsonl")] == [1]
    assert folder.sizes == sizes
    assert not (folder.path / "summary.json").exists()
    assert load(folder.path / "config.yaml").run.max_steps == 77
    with pytest.raises(ConfigError, match=r"metrics\.jsonl is shorter than it was"):
        folder.go_on(samples.config(), {"metrics.jsonl": 10**6})
    folder.go_on(samples.config(), {})
    assert set(folder.sizes.values()) == {0}


def test_the_folder_of_a_name_is_found_again_and_a_strange_one_is_left_alone(tmp_path: Path) -> None:
    settings = samples.config(run={"directory": str(tmp_path / "runs"), "name": "job", "resume": "auto"})
    folder = RunFolder.named(settings)
    folder.go_on(settings, {})
    assert RunFolder.named(settings).path == folder.path
    strange = samples.config(run={"directory": str(tmp_path), "name": "mine"})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("...")
    with pytest.raises(ConfigError, match="is no run's folder"):
        RunFolder.named(strange)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    with (
        folder.locked(),
        pytest.raises(ConfigError, match="another process is running this run"),
        folder.locked(),
    ):
        pytest.fail("two at once")
    with folder.locked():
        pass


def test_a_model_is_taken_whole(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    for content in ("one", "two"):
        made = tmp_path / content / "model"
        (made / "deeper").mkdir(parents=True)
        (made / "config.json").write_text(content)
        folder.take_model(made)
        assert (folder.model_path / "config.json").read_text() == content
        assert (folder.model_path / "deeper").is_dir()
        shutil.rmtree(made)
        assert (folder.model_path / "config.json").read_text() == content
    assert sorted(path.name for path in folder.path.iterdir()) == ["config.yaml", "model"]
