"""A run that goes on is the run that was never interrupted: to the bit, seconds aside."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from launch import checkpoint
from tests.end_to_end.kept import ALIKE, Kept
from tests.end_to_end.runs import cohort, rows, write_config

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


def test_a_run_that_is_killed_goes_on_by_itself(tmp_path: Path, model: str) -> None:
    """Two ranks, ZeRO stage 2, a falling learning rate; SIGTERM first, which writes a checkpoint, and then SIGKILL,
    which leaves the one before."""
    config_path = write_config(
        tmp_path / "job.yaml",
        model,
        task={"name": "comparison", "size": 6},
        training={"ranks": 2, "zero_stage": 2, "lr_scheduler_type": "cosine"},
        signal={"stop_without_signal": False},
        run={"max_steps": 30, "checkpoint_steps": 4, "resume": "auto"},
    )
    whole, parts = tmp_path / "runs" / "whole", tmp_path / "runs" / "job"
    with cohort("train", config_path, "--run.name", "whole", "--run.resume", "never", cwd=tmp_path) as run:
        status, out, err = run.finish()
        assert status == 0, out + err

    def killed_at(step: int, number: int) -> tuple[int, str, str]:
        with cohort("train", config_path, cwd=tmp_path) as run:
            deadline = time.monotonic() + 300
            while time.monotonic() < deadline and (
                not (parts / "metrics.jsonl").exists() or len(rows(parts / "metrics.jsonl")) < step
            ):
                assert run.process.poll() is None, "\n".join(map(str, run.finish()))
                time.sleep(0.02)
            os.killpg(run.process.pid, number)
            ended: tuple[int, str, str] = run.finish(60)
            assert run.left_behind() == []
        return ended

    status, out, err = killed_at(6, signal.SIGTERM)
    assert status == 5, out + err
    assert f"Go on with: cohort train --resume {tmp_path}/runs/job" in out
    done = len(rows(parts / "metrics.jsonl"))
    assert 6 <= done < 30
    assert int(checkpoint.paths(parts / "checkpoints")[-1].name[5:]) == done

    status, out, err = killed_at(done + 6, signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert int(checkpoint.paths(parts / "checkpoints")[-1].name[5:]) > done

    with cohort("train", config_path, cwd=tmp_path) as run:
        status, out, err = run.finish()
        assert status == 0, out + err
        assert run.left_behind() == []
    assert steps(parts) == steps(whole)
    assert weights(parts) == weights(whole)
    assert len(checkpoint.paths(parts / "checkpoints")) <= 3
