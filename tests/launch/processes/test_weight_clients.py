"""Sending buckets to engines, without Ray: calls run when they are waited for."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from generation.buckets import pack, unpack
from launch.processes import weight_clients
from launch.processes.actors import EngineProcess
from launch.processes.weight_clients import BucketClient


class RecordingEngine:
    """Keeps what it was sent."""

    def __init__(self) -> None:
        self.weights: dict[str, torch.Tensor] = {}

    def update_weights(self, update_info: dict[str, Any]) -> None:
        for name, weight in unpack(update_info["data"], update_info["layout"]):
            self.weights[name] = weight.clone()


class Actor:
    """Stands for Ray's handle of an engine process. near: whether it is on the sender's machine."""

    def __init__(self, near: bool) -> None:
        self.engine, self.near, self.calls = RecordingEngine(), near, list[str]()
        self._process = EngineProcess.__new__(EngineProcess)
        self._process._engine = self.engine  # type: ignore[assignment]
        self._process._segments = {}

    def __getattr__(self, method: str) -> Any:
        def remote(*arguments: Any) -> Callable[[], Any]:
            return lambda: self._call(method, arguments)

        return type("Method", (), {"remote": staticmethod(remote)})

    def _call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        self.calls.append(method)
        if method == "attach" and not self.near:
            return False
        return getattr(self._process, method)(*arguments)


class LateClient(BucketClient):
    def _wait(self, calls: Mapping[str, Any]) -> dict[str, Any]:
        return {name: call() for name, call in calls.items()}


@pytest.mark.parametrize("near", [(True,), (False,), (True, False), (True, True)])
def test_every_engine_gets_every_bucket(monkeypatch: pytest.MonkeyPatch, near: tuple[bool, ...]) -> None:
    """Over some weight syncs, with buckets of several sizes, one larger than a segment was at first."""
    monkeypatch.setattr(weight_clients, "BUCKET_BYTES", 1000)
    monkeypatch.setattr("launch.processes.weight_clients.ray.put", lambda value: value)
    engines = {f"engine {index}": Actor(is_near) for index, is_near in enumerate(near)}
    client = LateClient(engines, 1, 1.0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        sizes = [7, 200, 100, 130, 900, 3, 5000, 20]
        weights = {
            f"weight {index}": torch.randn(size, generator=generator).to(
                torch.bfloat16 if index % 2 else torch.float32
            )
            for index, size in enumerate(sizes)
        }
        client._wait({})
        client._loading = {}
        for data, layout in pack(weights.items(), 1000):
            client.update_weights({"data": data, "layout": layout})
        client._wait(client._loading)
        for engine in engines.values():
            assert engine.engine.weights.keys() == weights.keys()
            for name, weight in weights.items():
                assert torch.equal(engine.engine.weights[name], weight)
    for engine in engines.values():
        used = "update_weights_from" if engine.near else "update_weights"
        assert set(engine.calls) == {"attach", used}
        # Segments stay from one weight sync to the next: two, of which each grew at most once.
        assert engine.calls.count("attach") <= 4
