"""Sending weights to engines, without Ray: calls run when they are waited for."""

import threading
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
import torch

from generation.buckets import pack, unpack
from launch.errors import ProcessFailed, RemoteError
from launch.processes import waiting, weight_clients
from launch.processes.actors import EngineProcess
from launch.processes.weight_clients import BucketClient, EngineClient, InTurnClient
from trainer.update import weight_sync
from trainer.update.buffer_sizes import IPC_BUFFER_BYTES


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


class LateInTurnClient(InTurnClient):
    def _wait(self, calls: Mapping[str, Any]) -> dict[str, Any]:
        return {name: call() for name, call in calls.items()}


def test_over_ipc_a_buffer_is_read_before_it_is_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """One buffer for all buckets, as vLLM's sender has it; memory of this process in the place of a GPU's."""
    monkeypatch.setattr(ray, "put", lambda value: value)
    engine = Actor(near=False)
    client = LateInTurnClient({"engine 0": engine}, 1, 1.0)
    buffer = torch.zeros(4)
    for number in (1.0, 2.0):
        buffer.fill_(number)
        ((data, layout),) = pack([(f"weight {number}", buffer)])
        shared = (buffer.numpy().view(np.uint8),) if len(data) == 1 else data
        client.update_weights({"data": shared, "layout": layout})
    assert [weight.tolist() for weight in engine.engine.weights.values()] == [[1.0] * 4, [2.0] * 4]


@pytest.mark.parametrize(
    ("weights", "buffer"), [([(8,), (3, 5)], IPC_BUFFER_BYTES), ([(8,), (151_936, 4096)], 151_936 * 4096 * 2)]
)
def test_over_ipc_the_buffer_holds_the_largest_weight(
    monkeypatch: pytest.MonkeyPatch, weights: list[tuple[int, ...]], buffer: int
) -> None:
    rank = SimpleNamespace(metadata=lambda: [(str(shape), torch.bfloat16, shape) for shape in weights])
    monkeypatch.setattr(weight_sync, "VLLMSender", lambda rank, client, info: info)
    info: Any = weight_sync.sender("ipc", rank, 0, None, master_address="", master_port=0, workers=1)  # type: ignore[arg-type]
    assert info.packed and info.packed_buffer_size_bytes == buffer


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Stands for a collective that somebody does not enter."""
    monkeypatch.setattr(weight_clients, "LOOK", 0.01)
    monkeypatch.setattr(waiting, "AFTER_A_FAILURE", 0.01)
    monkeypatch.setattr(ray, "put", lambda value: value)
    event = threading.Event()
    yield event
    event.set()


def test_an_engine_that_fails_is_named_at_once_while_the_sender_waits_in_a_collective(
    never: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(reference: object) -> Any:
        raise ray.exceptions.RayTaskError("update_weights", "Traceback ...", ValueError("no such weight"))

    monkeypatch.setattr(ray, "wait", lambda references, num_returns=1, timeout=None: (references, []))
    monkeypatch.setattr(ray, "get", failing)
    client = EngineClient({"engine 0": Actor(True)}, 1, 300.0)
    client.begin(7)

    def send() -> None:
        client.update_weights({})
        never.wait(60)

    with pytest.raises(
        ProcessFailed, match="While syncing the weights of policy version 7: engine 0 failed"
    ) as error:
        client.beside(send)
    assert error.value.name == "engine 0"


def test_an_engine_that_is_late_is_named_while_the_sender_waits_in_a_collective(
    never: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "wait", lambda references, num_returns=1, timeout=None: ([], references))
    client = EngineClient({"engine 0": Actor(True)}, 1, 0.05)

    def send() -> None:
        client.update_weights({})
        never.wait(60)

    with pytest.raises(
        RemoteError, match=r"engine 0 did not answer within 0.05 seconds\. .* cluster.publish_timeout"
    ):
        client.beside(send)


def test_what_the_sender_returns_or_raises_comes_through() -> None:
    client = EngineClient({}, 1, 1.0)
    assert client.beside(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        client.beside(lambda: 1 // 0)
