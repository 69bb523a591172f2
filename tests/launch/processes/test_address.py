import pytest

from configs.errors import ConfigError
from launch.processes.address import cluster_address
from tests.launch import samples


@pytest.mark.parametrize(
    ("setting", "variable", "expected"),
    [
        (None, None, None),
        (None, "", None),
        (None, "local", None),
        ("local", None, None),
        ("local", "10.0.0.1:6379", None),
        ("auto", None, "auto"),
        (None, "10.0.0.1:6379", "10.0.0.1:6379"),
        ("head:1", "10.0.0.1:6379", "head:1"),
        ("[::1]:6379", None, "[::1]:6379"),
    ],
)
def test_whose_ray(
    monkeypatch: pytest.MonkeyPatch, setting: str | None, variable: str | None, expected: str | None
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable is not None:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    assert cluster_address(samples.config(cluster={"address": setting})) == expected


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:8265",
        "ray://127.0.0.1:10001",
        "host",
        "host:0",
        "host:65536",
        "a b:1",
        "::1:6379",
        "host:1:2",
    ],
)
def test_what_is_no_address_is_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    with pytest.raises(ConfigError, match=r"^cluster\.address: .* It must be HOST:PORT"):
        cluster_address(samples.config(cluster={"address": address}))
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError, match=r"^RAY_ADDRESS: "):
        cluster_address(samples.config())
