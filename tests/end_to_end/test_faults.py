"""A process of a run dies or hangs: the run ends with its name, keeps what it had, and leaves nothing behind."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.end_to_end.runs import Run, cohort, processes, rows, write_config

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(300)]


def strike(run: Run, kind: str, number: signal.Signals, metrics: Path) -> None:
    """Sends a signal to one of the run's processes after its first step."""
    deadline = time.monotonic() + 200
    while not metrics.exists() and time.monotonic() < deadline:
        assert run.process.poll() is None, "\n".join(map(str, run.finish()))
        time.sleep(0.1)
    os.kill(max(pid for pid, command in processes(run.mark).items() if f"ray::{kind}" in command), number)


@pytest.mark.parametrize(
    ("kind", "ranks", "number", "message"),
    [
        ("EngineProcess", 1, signal.SIGKILL, "the process of engine 0 ended"),
        ("RankProcess", 2, signal.SIGKILL, "the process of rank"),  # the other waits for it
        ("EngineProcess", 2, signal.SIGSTOP, "engine 0 did not answer within 15 seconds"),
    ],
)
def test_a_process_that_dies_or_hangs_ends_the_run(
    kind: str, ranks: int, number: signal.Signals, message: str, tmp_path: Path, model: str
) -> None:
    config_path = write_config(
        tmp_path / "fault.yaml",
        model,
        task={"name": "comparison", "size": 8},
        training={"learning_rate": 1e-9, "ranks": ranks},
        signal={"stop_without_signal": False},
        run={"max_seconds": 200},
        cluster={f"{phase}_timeout": 15 for phase in ("sample", "update", "publish")},
    )
    folder = tmp_path / "runs" / "fault"
    with cohort("train", config_path, cwd=tmp_path) as run:
        strike(run, kind, number, folder / "metrics.jsonl")
        status, out, err = run.finish(90)
        assert status == 1, out + err
        assert run.left_behind() == []
    assert err.startswith("cohort train: While ") and message in err
    assert "Traceback" not in err
    assert len(rows(folder / "metrics.jsonl")) >= 1
