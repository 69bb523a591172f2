"""Who can reach a run of this machine, and what it leaves behind."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from launch.processes.guard import MARK
from tests.end_to_end.listeners import answer, listeners
from tests.end_to_end.runs import Run, cohort, processes, rows, write_config

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(400)]


def recipe(tmp_path: Path, model: str, processes: int) -> str:
    """A run of so many engines and ranks that goes on."""
    return write_config(
        tmp_path / "doors.yaml",
        model,
        task={"name": "comparison", "size": 8},
        engine={"engines": processes},
        training={"learning_rate": 1e-9, "ranks": processes},
        signal={"stop_without_signal": False},
        run={"max_seconds": 900},
    )


def after_a_step(run: Run, folder: Path) -> Path:
    """Waits for the first step; the session's folder."""
    deadline = time.monotonic() + 240
    while not (folder / "metrics.jsonl").exists():
        assert run.process.poll() is None, "\n".join(map(str, run.finish()))
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (session,) = sessions(run)
    return session


def asked_without_a_token(port: int) -> str:
    """What Ray's own client says that has none."""
    ask = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1])"
    return subprocess.run(
        [sys.executable, "-c", ask, f"127.0.0.1:{port}"],
        env=os.environ | {"RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    ).stderr


def sessions(run: Run) -> set[Path]:
    found = set()
    for pid in processes(run.mark):
        with suppress(OSError):
            for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                name, _, value = entry.decode().partition("=")
                if name == MARK:
                    found.add(Path(value))
    return found


def test_a_run_listens_on_loopback_with_a_secret_and_hears_signals_of_its_group_alone(
    tmp_path: Path, model: str
) -> None:
    folder = tmp_path / "runs" / "doors"
    with cohort("train", recipe(tmp_path, model, 2), cwd=tmp_path, RAY_AUTH_MODE="disabled") as run:
        session = after_a_step(run, folder)

        commands = processes(run.mark)
        for kind, count in (("EngineProcess", 2), ("RankProcess", 2), ("raylet/raylet", 1), ("Agent", 2)):
            assert sum(kind in line for line in commands.values()) == count, commands
        found = listeners(commands)
        assert {listener.pid for listener in found} >= {pid for pid, line in commands.items() if "ray::" in line}
        assert [listener for listener in found if not listener.on_loopback] == []
        with ThreadPoolExecutor(len(found)) as threads:
            for listener, said in zip(found, threads.map(partial(answer, path="/metrics"), found), strict=True):
                assert b" 200 " not in said, (listener, commands[listener.pid])

        (gcs,) = [listener for listener in found if "/gcs_server " in commands[listener.pid]]
        assert "InvalidAuthToken" in asked_without_a_token(gcs.port)

        assert session.stat().st_mode & 0o777 == 0o700

        os.killpg(run.process.pid, signal.SIGTERM)
        status, out, err = run.finish(90)
        assert run.left_behind() == []
    assert (status, err) == (5, ""), out + err
    assert (folder / "summary.json").exists()
    assert (folder / "model" / "config.json").exists()
    assert rows(folder / "metrics.jsonl")
    assert not session.exists()


def test_nothing_is_left_of_a_run_that_is_killed_with_processes_that_do_not_answer(
    tmp_path: Path, model: str
) -> None:
    with cohort("train", recipe(tmp_path, model, 1), cwd=tmp_path) as run:
        session = after_a_step(run, tmp_path / "runs" / "doors")
        for pid, line in processes(run.mark).items():
            if "EngineProcess" in line or "raylet/raylet" in line:
                os.kill(pid, signal.SIGSTOP)
        run.process.kill()
        assert run.left_behind(10) == []
        assert not session.exists()
