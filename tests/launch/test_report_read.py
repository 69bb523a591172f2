import json
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.errors import ConfigError
from launch.logger.run_folder import RunFolder
from launch.report.read import Sampled, Scores, read_run
from tests.launch import samples
from tests.launch.samples import written
from trainer.ending import Target


def altered(path: Path, **fields: Any) -> None:
    """Other fields in summary.json."""
    summary = json.loads((path / "summary.json").read_text())
    (path / "summary.json").write_text(json.dumps(summary | fields))


def test_everything_that_a_run_writes_is_read(tmp_path: Path) -> None:
    run = read_run(written(tmp_path), "mine")
    assert (run.name, run.steps, run.notes) == ("mine", 3, ())
    for name in samples.metrics().named:
        assert run.metric(name).tolist() == [samples.metrics(step).named[name] for step in (1, 2, 3)]
    assert run.config == samples.config(run={"directory": str(tmp_path)})

    (rollouts,) = run.rollouts.values()  # both groups of every step are of one prompt
    assert [rollout.step for rollout in rollouts] == [1, 1, 2, 2, 3, 3]
    first = rollouts[0]
    assert (first.kind, first.reward, first.temperature, first.distinct) == ("learning", 0.625, 1.0, 2)
    assert first.completions == (Sampled("Yes", 96, 1.0, "correct"), Sampled("No", 32, -0.5, "wrong"))

    result, ending = samples.result(), run.ending
    assert ending is not None
    assert (ending.target, ending.steps, ending.seconds) == (Target.REACHED, result.steps, result.seconds)
    assert ending.before == Scores(0.0625, 0.5, 0, 4)
    assert ending.after == Scores(1.0, 1.0, 4, 4)
    assert ending.alarms == ("logprob_gap is 0.3.",)
    assert ending.restarts == ("While sampling: engine 1 is lost.",)
    assert run.questions["comparison-47-12"] == "Is 47 greater than 12? Answer Yes or No."


def test_a_summary_without_a_verdict_says_why_the_run_stopped(tmp_path: Path) -> None:
    path = written(tmp_path)
    altered(path, verdict=None, stopped="All 3 steps are done.")
    ending = read_run(path, "old").ending
    assert ending is not None
    assert (ending.verdict, ending.cause, ending.advice) == ("All 3 steps are done.", None, None)
    altered(path, verdict="Nothing was learned.", cause="out_of_reach", advice="Ask easier questions.")
    ending = read_run(path, "new").ending
    assert ending is not None
    assert (ending.verdict, ending.cause) == ("Nothing was learned.", "out_of_reach")
    assert ending.advice == "Ask easier questions."


def test_a_run_that_was_killed_has_no_ending(tmp_path: Path) -> None:
    run = read_run(written(tmp_path, finished=False), "killed")
    assert run.steps == 3
    assert run.ending is None


@pytest.mark.parametrize("file", ["metrics.jsonl", "groups.jsonl"])
def test_a_line_that_is_being_written_is_left_out_and_noted(tmp_path: Path, file: str) -> None:
    path = written(tmp_path)
    whole = (path / file).read_text()
    lines = whole.count("\n")
    (path / file).write_text(whole + '{"step": 4, "rew')
    run = read_run(path, "running")
    assert run.steps == 3
    assert sum(map(len, run.rollouts.values())) == 6
    assert run.notes == (f"{file}, line {lines + 1}: the line is not finished and was left out.",)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"step": 4, "rew', r"metrics\.jsonl, line 2: this is not JSON"),
        ("7", r"metrics\.jsonl, line 2: 7 is not allowed; it must be a JSON object"),
        ('{"step": "four"}', r'metrics\.jsonl, line 2: step is "four"; it must be a whole number'),
        ('{"reward_mean": 1.0}', r'metrics\.jsonl, line 2: step is "missing"'),
        (
            f'{{"step": 4, "loss": {"9" * 400}}}',
            r"metrics\.jsonl, line 2: loss is 9+\.\.\.; it must be a number or null",
        ),
        (f'{{"step": {"9" * 400}}}', r"metrics\.jsonl, line 2: step is 9+\.\.\.; it must be a whole number"),
        (f'{{"step": {"9" * 5000}}}', r"metrics\.jsonl, line 2: this is not JSON"),
        ('{"step": 4, "loss": 1e999}', r"metrics\.jsonl, line 2: loss is Infinity; it must be a number or null"),
        ("[" * 100_000, r"metrics\.jsonl, line 2: this is not JSON"),
        ('{"step": 4, "loss": [1]}', r"metrics\.jsonl, line 2: loss is \[1\]; it must be a number or null"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = written(tmp_path)
    first, _, *others = (path / "metrics.jsonl").read_text().splitlines()
    (path / "metrics.jsonl").write_text("\n".join([first, line, *others]) + "\n")
    with pytest.raises(ConfigError, match=message):
        read_run(path, "broken")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "great"}, 'kind is "great"; it must be one of learning, solved, collapsed, floor'),
        ({"prompt_id": 7}, "prompt_id is 7; it must be text"),
        ({"completions": ["Yes"]}, "completions is .* it must be a list of objects"),
        ({"completions": [{"text": "Yes", "count": 1.5}]}, "count is 1.5; it must be a whole number"),
    ],
)
def test_a_broken_group_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = written(tmp_path, steps=1)
    first = json.loads((path / "groups.jsonl").read_text().splitlines()[0])
    (path / "groups.jsonl").write_text(json.dumps(first | change) + "\n")
    with pytest.raises(ConfigError, match=rf"groups\.jsonl, line 1: {message}"):
        read_run(path, "broken")


def test_a_broken_summary_is_named(tmp_path: Path) -> None:
    path = written(tmp_path)
    altered(path, before=None)
    with pytest.raises(ConfigError, match=r"summary\.json: before is null; it must be an object"):
        read_run(path, "broken")


def test_null_is_nan_and_so_is_a_metric_that_the_run_does_not_have(tmp_path: Path) -> None:
    config = samples.config(run={"directory": str(tmp_path)})
    folder = RunFolder.create(config)
    folder.step(samples.metrics(1, loss=nan), [])
    folder.step(samples.metrics(2), [])
    run = read_run(folder.path, "nan")
    np.testing.assert_array_equal(run.metric("loss"), [nan, 0.01])
    np.testing.assert_array_equal(run.metric("of_the_future"), [nan, nan])


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere does not exist; it must be the folder of a run"):
        read_run(tmp_path / "nowhere", "")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file is a file; it must be the folder of a run"):
        read_run(tmp_path / "file", "")
    with pytest.raises(ConfigError, match=r"holds no metrics\.jsonl, so it is not the folder of a run, or the first"):
        read_run(tmp_path, "")


def test_a_run_that_ended_before_its_first_step_is_a_run(tmp_path: Path) -> None:
    config = samples.config(run={"directory": str(tmp_path)})
    folder = RunFolder.create(config)
    folder.summary(replace(samples.result(), steps=0), config)
    run = read_run(folder.path, "at once")
    assert run.steps == 0
    assert run.ending is not None


@pytest.mark.parametrize(
    "text", ["run: {1: 2}", "[" * 20_000, "run: &r {name: *r}", "\x01", "run: {max_steps: 1e5000}"]
)
def test_a_configuration_that_cannot_be_read_is_noted(text: str, tmp_path: Path) -> None:
    path = written(tmp_path)
    (path / "config.yaml").write_text(text)
    run = read_run(path, "odd")
    assert run.config is None and "config.yaml cannot be read" in run.notes[0]


def test_half_a_surrogate_pair_can_be_shown(tmp_path: Path) -> None:
    path = written(tmp_path, steps=1)
    first = json.loads((path / "groups.jsonl").read_text().splitlines()[0])
    (path / "groups.jsonl").write_text(json.dumps(first | {"prompt_id": "a\ud800"}) + "\n")
    assert [*read_run(path, "odd").rollouts] == ["a�"]


def test_a_configuration_of_another_version_is_noted(tmp_path: Path) -> None:
    path = written(tmp_path)
    (path / "config.yaml").write_text("sampling:\n  generations_of_yore: 3\n")
    run = read_run(path, "old")
    assert run.config is None
    assert run.base_temperature == 1.0
    (note,) = run.notes
    assert "generations_of_yore" in note
