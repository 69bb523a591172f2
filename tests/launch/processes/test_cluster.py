"""Addresses where no cluster is; what a Ray of our own is told. Whole runs are in tests/end_to_end."""

import gc
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from configs.errors import ConfigError
from launch.errors import RemoteError
from launch.processes import cluster
from launch.processes.cluster import connected
from tests.end_to_end.runs import ROOT, started
from tests.launch import samples

STRIKE = """
import os, sys, time
from launch.processes.cluster import connected
from launch.processes.guard import MARK as SESSION
from tests.end_to_end.runs import MARK, processes
from tests.launch import samples

with connected(samples.config()):
    ours = processes(os.environ[MARK])
    (pid,) = [pid for pid, line in ours.items() if sys.argv[1] in line and pid != os.getpid()]
    environment = open(f"/proc/{pid}/environ").read().split("\\0")
    print(*[entry.partition("=")[2] for entry in environment if entry.startswith(SESSION)])
    os.kill(pid, int(sys.argv[2]))
    began = time.monotonic()
print(time.monotonic() - began)
"""


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def refusal(address: str) -> tuple[str, float]:
    """The message, and seconds until it came."""
    began = time.monotonic()
    with pytest.raises(ConfigError) as refused, connected(samples.config(cluster={"address": address})):
        pass
    return str(refused.value), time.monotonic() - began


def test_the_garbage_collector_leaves_alone_what_was_there_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_ours", nullcontext)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with connected(samples.config()):
        assert gc.get_freeze_count() > 10_000
    assert not gc.get_freeze_count()


def test_an_address_without_a_server_is_refused_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    message, seconds = refusal(f"127.0.0.1:{port}")
    assert message.startswith(
        f"cluster.address: '127.0.0.1:{port}' does not answer ([Errno 111] Connection refused)."
    )
    assert seconds < 5


def test_a_server_that_says_nothing_is_refused_within_20_seconds(silent: str) -> None:
    message, seconds = refusal(silent)
    assert "something listens there, and said nothing for 10 seconds" in message
    assert "`ray start --head`" in message
    assert seconds < 20


def test_a_ray_that_does_not_start_is_tried_again_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = []

    def fail(config: object, folder: Path) -> None:
        folders.append(folder)
        raise Exception("The current node timed out during startup.\nMore of it.")  # as Ray does

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster, "_init", fail)
    with (
        pytest.raises(RemoteError, match=r"it did not start \(The current node timed out during startup\.\)"),
        connected(samples.config()),
    ):
        pass
    assert len(folders) == cluster.TRIES
    assert len(set(folders)) == 1
    assert not folders[0].exists()


def test_the_environment_does_not_weaken_a_ray_of_our_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0")
    settings = cluster._settings(tmp_path)
    assert settings["RAY_AUTH_MODE"] == "token"
    assert len(settings["RAY_AUTH_TOKEN"]) == 64
    assert settings["RAY_AUTH_TOKEN"] == cluster._settings(tmp_path)["RAY_AUTH_TOKEN"]
    assert settings["GLOO_SOCKET_IFNAME"] == "lo"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a user's own")
    assert cluster._settings(tmp_path)["RAY_AUTH_TOKEN"] == "a user's own"


@pytest.mark.end_to_end
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("part", "number"),
    [("raylet/raylet", signal.SIGSTOP), ("gcs/gcs_server", signal.SIGSTOP), ("raylet/raylet", signal.SIGKILL)],
)
def test_a_ray_that_does_not_answer_is_ended_all_the_same(part: str, number: signal.Signals, tmp_path: Path) -> None:
    with started(sys.executable, "-c", STRIKE, part, str(int(number)), cwd=tmp_path, PYTHONPATH=str(ROOT)) as run:
        status, out, err = run.finish(150)
        assert run.left_behind(2) == []
    assert status == 0, out + err
    folder, *_, seconds = out.split()  # Ray may say something in between
    assert not Path(folder).exists()
    assert float(seconds) < 30
