"""The benchmark of growth: real processes where Ray is started, made-up figures where it is not."""

import json
from pathlib import Path

import numpy as np
import pytest

from configs.errors import ConfigError
from generation.engine import SampleRequest
from launch.bench import growth
from launch.bench.growth import Load, bench, simulated
from launch.bench.instant import questions
from launch.bench.simulated import made_up
from trainer.update.forest import EMPTY_FOREST, EXAMPLE_FOREST, Batch


@pytest.mark.end_to_end
def test_it_times_real_steps_through_real_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second load takes the processes of the first, and other answers."""
    monkeypatch.setattr(growth, "NUM_GENERATIONS", 64)
    monkeypatch.setattr(growth, "LOADS", (Load(2, 2, 4, 8), Load(1, 2, 4, 16, None)))
    assert bench([f"--output={tmp_path}"]) == 0
    said = capsys.readouterr().out
    assert "The controller's share of a step" in said and said.count("starting engine") == 1
    first, second = json.loads((tmp_path / "bench-growth.json").read_text())["timed"]
    # Two prompts for each of two engines; 16 of each group's completions in the update, on one of two ranks.
    assert first["simulated"] == pytest.approx(2 * 64 * 8 / 15_600 + 0.23, rel=0.1)
    assert second["simulated"] == pytest.approx(4 * 64 * 16 / 15_600 + 2 * 64 * 16 / 35_600 + 0.23, rel=0.1)
    for one in (first, second):
        assert one["busy"] > 0 and 0 < one["share"] < 1
        assert sum(one["phases"].values()) == pytest.approx(one["seconds"]["median"], rel=0.7)
        assert min(one["phases"].values()) >= 0 < min(one["phases"][name] for name in ("deal", "score", "send"))
    assert (tmp_path / "bench-growth.png").read_bytes().startswith(b"\x89PNG")


def test_groups_are_of_distinct_completions_of_the_length_asked_for() -> None:
    request = SampleRequest(questions(1)[0], 256, 1.0, seed=1)
    group = made_up(request, turn=1023, tokens=8, policy_version=3)
    assert group.num_generations == len({one.token_ids.tobytes() for one in group.completions}) == 256
    assert len({one.text for one in group.completions}) == 256
    assert set(group.lengths) == {8} and group.policy_version == 3
    for one in group.completions:
        assert one.token_ids.dtype == np.int32 and one.logprobs.dtype == np.float32 and (one.logprobs < 0).all()
    assert sum(one.text.startswith("Yes") for one in group.completions) == 4


def test_a_simulated_step_waits_for_the_slowest() -> None:
    """Of three groups engine 0 gets two; rank 0 has all nodes."""
    requests = [SampleRequest(prompt, 10, 1.0, seed=1) for prompt in questions(3)]
    groups = [made_up(request, 0, 78, 0) for request in requests]
    batch = Batch(((EXAMPLE_FOREST, EXAMPLE_FOREST), (EMPTY_FOREST, EMPTY_FOREST)), 128, 256, 14, 896)
    sampled, published = 2 * 10 * 78 / 15_600, 0.23
    assert simulated(Load(2, 2, 3, 78), groups, batch) == pytest.approx(sampled + 14 / 35_600 + published)
    assert simulated(Load(2, 2, 3, 78), groups, None) == pytest.approx(sampled + published)


@pytest.mark.parametrize("words", [["--steps", "3"], ["--output"], ["--output", "--x"], ["configs/comparison.yaml"]])
def test_other_options_are_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="there is only --output FOLDER"):
        bench(words)


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(["--help"]) == 0
    assert "cohort bench growth" in capsys.readouterr().out
