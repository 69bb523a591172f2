"""Addresses where no cluster is; what a Ray of our own is told. Whole runs are in tests/end_to_end."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.errors import ConfigError
from launch.errors import RemoteError
from launch.processes import cluster
from launch.processes.cluster import connected
from tests.launch import samples


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


def test_a_ray_that_does_not_start_is_tried_twice_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
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
    first, second = folders
    assert first == second
    assert not first.exists()


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
