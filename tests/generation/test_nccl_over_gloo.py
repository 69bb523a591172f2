"""Weights on their way from ranks to the engines of several GPUs, with vLLM's two ends of NCCL and what ours makes of
them: who meets whom, in which order, and what arrives.

gloo stands for NCCL, threads for processes, nothing for CUDA's streams, and a barrier at every weight for the
gathering of ZeRO 3, which all ranks must enter in the same order.
"""

import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from torch import distributed
from torch._C._distributed_c10d import PrefixStore
from vllm.distributed.device_communicators import pynccl
from vllm.distributed.weight_transfer import packed_tensor
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferInitInfo, NCCLWeightTransferUpdateInfo

from generation.checksum import checksum
from generation.weights import VerifiedNCCL
from launch.processes.weight_clients import EngineClient
from tests.end_to_end.listeners import listeners
from trainer.update.weight_sync import sender

pytestmark = pytest.mark.timeout(60)

LIMIT = 20.0
RANKS, ENGINES, WORKERS = 2, 2, 2
SIZES = [(7,), (3, 5), (64, 32), (1,), (300,), (2, 2, 2)]
BUFFER_BYTES = 1000
"""Of packed weights: several buffers, and weights larger than one."""


class Gloo:
    """In the place of `PyNcclCommunicator`."""

    def __init__(self, group: Any, device: Any) -> None:
        self.rank = group.rank
        store = PrefixStore("gloo", group.store)
        limit = timedelta(seconds=LIMIT)
        self._group: Any = distributed.ProcessGroupGloo(store, group.rank, group.world_size, limit)

    def broadcast(self, tensor: torch.Tensor, src: int, stream: Any = None) -> None:
        options = distributed.BroadcastOptions()
        options.rootRank, options.rootTensor = src, 0
        self._group.broadcast([tensor], options).wait()


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.loaded: dict[str, torch.Tensor] = {}

    def load_weights(self, weights: Any) -> None:
        self.loaded |= {name: weight.clone() for name, weight in weights}


class Engine:
    """In the place of Ray's handle: an engine in `WORKERS` parts, each with vLLM's receiving end in our form."""

    def __init__(self) -> None:
        self.workers = []
        for index in range(WORKERS):
            parallel = SimpleNamespace(data_parallel_index=0, world_size=WORKERS, rank=index)
            config: Any = SimpleNamespace(parallel_config=parallel, model_config=SimpleNamespace(dtype=torch.float32))
            self.workers.append(VerifiedNCCL(None, config, torch.device("cpu"), Model()))  # type: ignore[arg-type]
        self._threads = ThreadPoolExecutor(WORKERS)

    def __getattr__(self, method: str) -> Any:
        def remote(*arguments: Any) -> list[Future[Any]]:
            return [self._threads.submit(CALLS[method], worker, *arguments) for worker in self.workers]

        return SimpleNamespace(remote=remote)


CALLS: Mapping[str, Callable[..., None]] = {
    "init_weight_transfer_engine": lambda worker, info: worker.init_transfer_engine(
        NCCLWeightTransferInitInfo(**info)
    ),
    "start_weight_update": lambda worker: worker.start_weight_update(),
    "update_weights": lambda worker, info: worker.receive_weights(NCCLWeightTransferUpdateInfo(**info)),
    "finish_weight_update": lambda worker, version: worker.finish_weight_update(),
}


class Client(EngineClient):
    """Waits for threads."""

    def _wait(self, calls: Mapping[str, list[Future[Any]]]) -> dict[str, Any]:
        return {name: [call.result(LIMIT) for call in of_one] for name, of_one in calls.items()}


class Rank:
    """In the place of a rank: its weights, which no rank yields before all have come to it."""

    def __init__(self, weights: Mapping[str, torch.Tensor], gather: threading.Barrier) -> None:
        self.weights, self._gather = weights, gather

    def metadata(self) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
        return [(name, weight.dtype, tuple(weight.shape)) for name, weight in self.weights.items()]

    def published(self) -> Iterator[tuple[str, torch.Tensor]]:
        for item in self.weights.items():
            self._gather.wait(LIMIT)
            yield item


@pytest.fixture(autouse=True)
def no_gpu_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = SimpleNamespace(synchronize=lambda: None)
    monkeypatch.setattr(pynccl, "PyNcclCommunicator", Gloo)
    monkeypatch.setattr(packed_tensor, "_get_streams", lambda device, number: (stream,) * number)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 0)
    monkeypatch.setattr(ray, "put", lambda value: value)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")


def weights(version: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(version)
    dtype = (torch.float32, torch.bfloat16)[version % 2]
    return {f"weight {index}": torch.randn(size, generator=generator).to(dtype) for index, size in enumerate(SIZES)}


def test_every_worker_gets_every_weight_of_every_version() -> None:
    before = listeners([os.getpid()])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address, port = free.getsockname()
    engines = {f"engine {index}": Engine() for index in range(ENGINES)}
    client = Client(engines, WORKERS, LIMIT)
    gather = threading.Barrier(RANKS)
    ranks = [Rank(weights(0), gather) for _ in range(RANKS)]
    with ThreadPoolExecutor(RANKS) as threads:

        def opened(index: int) -> Any:
            return sender(
                *("nccl", ranks[index], index, client),  # type: ignore[arg-type]
                master_address=address,
                master_port=port,
                workers=ENGINES * WORKERS,
            )

        senders = list(threads.map(opened, range(RANKS)))
        workers = [worker for engine in engines.values() for worker in engine.workers]
        groups: list[Any] = [worker.model_update_group for worker in workers]
        assert [group.rank for group in groups] == [1, 2, 3, 4]
        for end in (senders[0]._engine, *workers):
            end.packed_buffer_size_bytes = BUFFER_BYTES
        for version in (1, 2, 3):
            for rank in ranks:
                rank.weights = weights(version)
            sums = list(threads.map(lambda sender: sender.send(), senders))
            assert sums == [checksum(weights(version).items())] * RANKS
            for worker in workers:
                assert worker.loaded is not None and worker.loaded.value() == sums[0]
                loaded: Any = worker._default_model.loaded
                assert loaded.keys() == weights(version).keys()
                assert all(torch.equal(loaded[name], weight) for name, weight in weights(version).items())

    met = [listener for listener in listeners([os.getpid()]) if listener not in before]
    assert port in [listener.port for listener in met]
    assert [listener for listener in met if not listener.on_loopback] == []
