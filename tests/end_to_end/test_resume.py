"""A run that goes on is the run that was never interrupted: to the bit, seconds aside."""

import json
from pathlib import Path
from typing import Any

import pytest

from launch import checkpoint
from tests.end_to_end.kept import ALIKE, Kept
from tests.end_to_end.runs import rows, write_config

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]


def steps(folder: Path) -> list[list[dict[str, Any]]]:
    """What the run wrote of its steps, but for seconds."""
    return [
        [{key: value for key, value in row.items() if not key.startswith("seconds")} for row in rows(folder / name)]
        for name in ("metrics.jsonl", "groups.jsonl")
    ]


def weights(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


def test_a_rescue_goes_on_half_way_up_its_ladder(tmp_path: Path, kept: Kept, model: str) -> None:
    """Cold samples are all alike: prompts climb. The interruption is a limit that is raised."""
    config_path = write_config(
        tmp_path / "cold.yaml",
        model,
        task={"name": "comparison", "size": 6},
        sampling={"temperature": 0.1},
        engine=ALIKE,
        training={"beta": 0.05, "num_iterations": 2},
        signal={"stop_without_signal": False},
        run={"max_steps": 12},
    )
    status, out, err = kept.cohort("train", config_path, "--run.name", "whole", cwd=tmp_path)
    assert status == 0, out + err
    status, out, err = kept.cohort("train", config_path, "--run.max_steps", "5", "--run.name", "parts", cwd=tmp_path)
    assert status == 0, out + err
    whole, parts = tmp_path / "runs" / "whole", tmp_path / "runs" / "parts"
    (latest,) = checkpoint.paths(parts / "checkpoints")
    rungs = checkpoint.read(latest).record.state.curriculum.rungs
    assert rungs.max() > 0
    assert steps(parts)[0] == steps(whole)[0][:5]

    resumed = ("train", "--resume", str(parts))
    status, out, err = kept.cohort(*resumed, "--run.max_steps", "12", cwd=tmp_path)
    assert status == 0, out + err
    assert steps(parts) == steps(whole)
    assert weights(parts) == weights(whole)

    status, out, err = kept.cohort(*resumed, "--training.learning_rate", "1e-3", cwd=tmp_path)
    assert status == 2
    assert "training.learning_rate: 0.001 is not what the run began with, 0.002" in err

    # A checkpoint's model is a model.
    best = str(checkpoint.paths(parts / "checkpoints")[-1] / "model")
    status, out, err = kept.cohort("eval", config_path, "--model.path", best, cwd=tmp_path)
    assert status == 0, out + err
    sampled = json.loads((parts / "summary.json").read_text())["reward_sampled"]
    assert "reward_sampled" in out
    assert sampled > -1


def test_a_run_goes_on_with_what_was_sampled_ahead(tmp_path: Path, kept: Kept, model: str) -> None:
    config_path = write_config(
        tmp_path / "ahead.yaml",
        model,
        task={"name": "comparison", "size": 6},
        sampling={"ahead": 1},
        engine=ALIKE,
        training={"beta": 0.05, "num_iterations": 2},
        run={"max_steps": 5, "eval_steps": 2},
    )
    status, out, err = kept.cohort("train", config_path, "--run.name", "whole", cwd=tmp_path)
    assert status == 0, out + err
    status, out, err = kept.cohort("train", config_path, "--run.max_steps", "3", "--run.name", "parts", cwd=tmp_path)
    assert status == 0, out + err
    whole, parts = tmp_path / "runs" / "whole", tmp_path / "runs" / "parts"
    (latest,) = checkpoint.paths(parts / "checkpoints")
    state = checkpoint.read(latest).record.state
    assert [one.policy_version for one in state.ahead] == [state.policy_version - 1] * 4

    status, out, err = kept.cohort("train", "--resume", str(parts), "--run.max_steps", "5", cwd=tmp_path)
    assert status == 0, out + err
    assert steps(parts) == steps(whole)
    assert weights(parts) == weights(whole)

    first, *others = steps(whole)[0]
    assert (first["policy_lag"], {row["policy_lag"] for row in others}) == (0, {1})
    assert first["logprob_gap"] < 1e-4 < min(row["logprob_gap"] for row in others)  # what an update changes
