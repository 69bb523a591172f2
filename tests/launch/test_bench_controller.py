"""The controller's benchmark, on loads that take no time."""

import json
from pathlib import Path

import pytest

from configs.errors import ConfigError
from generation.engine import SampleRequest
from launch.bench import controller
from launch.bench.controller import Load, bench, measure
from launch.bench.instant import Instant, questions
from trainer.signal.kinds import classify

SMALL = (Load(8, 4, at=5, aim=None), Load(8, 4, at=30, aim=None), Load(20, 6, at=3, aim=50.0))


def test_it_times_real_steps_of_each_load() -> None:
    timed = list(measure(SMALL, lambda _: None))
    assert [one.load for one in timed] == list(SMALL)
    for one in timed:
        assert 0 < one.milliseconds.low <= one.milliseconds.median <= one.milliseconds.high
        assert sum(one.phases.values()) == pytest.approx(one.milliseconds.median, rel=0.7)
        assert min(one.phases.values()) >= 0 and one.state_kib > 1


def test_groups_are_of_all_kinds() -> None:
    world, prompts = Instant(distinct=8), questions(60)
    requests = [SampleRequest(prompt, 32, 1.0, number) for number, prompt in enumerate(prompts)]
    scored = world.score(world.sample(requests))
    kinds = {classify(group, 1.0) for group in scored}
    assert kinds >= {"learning", "collapsed"}
    assert {group.holds_best(1.0) for group in scored} == {True, False}
    assert {group.group.num_generations for group in scored} == {32}


def test_table_json_and_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(controller, "LOADS", SMALL[:1])
    assert bench([f"--output={tmp_path}"]) == 0
    assert "The controller's share of a step" in capsys.readouterr().out
    record = json.loads((tmp_path / "bench-controller.json").read_text())
    assert record["timed"][0]["load"] == {"prompts": 8, "prompts_per_step": 4, "at": 5, "aim": None}
    assert (tmp_path / "bench-controller.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("words", [["--steps", "3"], ["--output"], ["--output", "--x"], ["configs/comparison.yaml"]])
def test_other_options_are_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="there is only --output FOLDER"):
        bench(words)


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(["--help"]) == 0
    assert "cohort bench controller" in capsys.readouterr().out
