"""The same run on a Ray cluster, as a job: `ray start --head`, then `ray job submit`."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.runs import ROOT, rows, started, write_config

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(300)]

RAY = str(Path(sys.executable).with_name("ray"))
LOOPBACK = "127.0.0.1"
AUTHENTICATION = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex}
"""Ray asks for a token or not depending on whether it has made one in the home directory before."""


def free_ports(count: int) -> list[str]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind((LOOPBACK, 0))
    ports = [str(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A cluster of this machine on loopback; the address of its dashboard. Its processes are ended by their mark:
    `ray stop` would end every Ray of this machine."""
    temporary = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # Ray's sockets need a short path
    port, dashboard, client, agent = free_ports(4)
    command = [
        *(RAY, "start", "--head", "--block", "--disable-usage-stats", f"--temp-dir={temporary}"),
        *(f"--node-ip-address={LOOPBACK}", f"--port={port}", f"--ray-client-server-port={client}"),
        *("--include-dashboard=true", f"--dashboard-host={LOOPBACK}", f"--dashboard-port={dashboard}"),
        *(f"--dashboard-agent-listen-port={agent}", "--num-cpus=2"),
    ]
    with started(*command, cwd=ROOT, **AUTHENTICATION) as head:
        address = f"http://{LOOPBACK}:{dashboard}"
        try:
            await_dashboard(address, head.process)
            yield address
        finally:
            head.process.terminate()
            shutil.rmtree(temporary, ignore_errors=True)


def await_dashboard(address: str, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 90
    while True:
        assert process.poll() is None, process.communicate()
        try:
            urllib.request.urlopen(f"{address}/api/jobs/", timeout=5).close()
            return
        except urllib.error.HTTPError:  # it answers, and asks for the token
            return
        except OSError:
            assert time.monotonic() < deadline, f"no dashboard at {address}"
            time.sleep(0.5)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git tracks and what it would: the working directory of a job may not hold gigabytes."""
    folder = tmp_path_factory.mktemp("job") / "checkout"
    leave_out = shutil.ignore_patterns(".*", "runs", "tests", "docs", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder, ignore=leave_out)
    return folder


def submit(address: str, checkout: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    job = [sys.executable, "-m", "launch", "train", *arguments]
    return subprocess.run(
        [RAY, "job", "submit", "--address", address, "--working-dir", str(checkout), "--", *job],
        cwd=checkout,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | AUTHENTICATION,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_a_job_streams_its_log_and_ends_with_the_runs_status(
    cluster: str, checkout: Path, tmp_path: Path, model: str
) -> None:
    write_config(
        checkout / "job.yaml",
        model,
        task={"name": "comparison", "size": 4},
        run={"max_steps": 2, "directory": str(tmp_path / "runs")},
    )
    done = submit(cluster, checkout, "job.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    for text in ("starting engines and ranks", "step   1", "step   2", "Done after 2 steps", "succeeded"):
        assert text in done.stdout, done.stdout
    assert [row["step"] for row in rows(tmp_path / "runs" / "job" / "metrics.jsonl")] == [1, 2]
    assert (tmp_path / "runs" / "job" / "model" / "config.json").exists()


def test_a_job_with_bad_input_fails_and_says_why(cluster: str, checkout: Path, tmp_path: Path, model: str) -> None:
    write_config(checkout / "bad.yaml", model, task={"name": "comparison", "size": 4}, run={"max_steps": 2})
    done = submit(cluster, checkout, "bad.yaml", "--sampling.num_generations", "1")
    assert done.returncode != 0
    assert "sampling.num_generations: 1 is not allowed; it must be a whole number, at least 2" in done.stdout
