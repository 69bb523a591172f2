"""A process of a run dies once too often: the run ends with its name, keeps what it had, and leaves nothing."""

import os
import signal
import time
from pathlib import Path

import pytest

from launch import checkpoint
from tests.end_to_end.runs import Run, cohort, processes, rows, write_config

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(300)]


def strike(run: Run, kind: str, number: signal.Signals, metrics: Path) -> None:
    """Sends a signal to one of the run's processes after its first step."""
    deadline = time.monotonic() + 200
    while not metrics.exists() and time.monotonic() < deadline:
        assert run.process.poll() is None, "\n".join(map(str, run.finish()))
        time.sleep(0.1)
    os.kill(max(pid for pid, command in processes(run.mark).items() if f"ray::{kind}" in command), number)


def test_an_engine_that_may_not_be_replaced_ends_the_run_with_a_checkpoint(tmp_path: Path, model: str) -> None:
    config_path = write_config(
        tmp_path / "fault.yaml",
        model,
        task={"name": "comparison", "size": 8},
        training={"learning_rate": 1e-9},
        signal={"stop_without_signal": False},
        run={"max_seconds": 200, "max_restarts": 0},
    )
    folder = tmp_path / "runs" / "fault"
    with cohort("train", config_path, cwd=tmp_path) as run:
        strike(run, "EngineProcess", signal.SIGKILL, folder / "metrics.jsonl")
        status, out, err = run.finish(90)
        assert status == 1, out + err
        assert run.left_behind() == []
    assert "cohort train: While " in err
    assert "the process of engine 0 ended" in err
    assert "run.max_restarts allows 0 restarts in an hour." in err
    assert f"Go on with: cohort train --resume {folder}" in err
    assert "Traceback" not in err
    (latest,) = checkpoint.paths(folder / "checkpoints")
    assert checkpoint.read(latest).record.state.step == len(rows(folder / "metrics.jsonl")) >= 1
