"""An engine in two halves, with vLLM's own worker processes, as on two GPUs: each loads its half of every weight, and
says what it was given.

On a CPU: gloo stands for NCCL, and a pickled call with the weights in it for CUDA IPC.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from vllm import envs

from generation.buckets import pack
from generation.checksum import checksum
from generation.engine import Engine, EngineError
from launch.hardware import has_gpu
from tests.generation.own_process import undone
from tests.generation.tiny_engine import gap, tiny_spec
from tests.tiny import load_tiny_model, make_tiny_model

pytestmark = [
    pytest.mark.skipif(has_gpu(), reason="one GPU cannot hold both halves"),
    pytest.mark.timeout(300),
]


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # or vLLM wants a NUMA node for each half
    monkeypatch.setenv("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")  # for `load`
    envs.disable_envs_cache()  # which an engine before this one, in the same process, has filled
    with undone():
        engine = Engine(tiny_spec(make_tiny_model(tmp_path), tensor_parallel_size=2))
        yield engine
        engine._llm.llm_engine.engine_core.shutdown()


@torch.no_grad()
def test_both_halves_hold_the_weights_that_were_sent(engine: Engine, tmp_path: Path) -> None:
    model = load_tiny_model(tmp_path)
    generator = torch.Generator().manual_seed(0)
    for version in (0, 1, 2):
        if version:
            for weight in model.parameters():
                weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.02)
            sent = checksum(model.named_parameters())
            send(engine, list(model.named_parameters()), version)
            engine.confirm(version, sent)
        assert gap(model, engine) < 1e-4
        assert engine.policy_version == version

    *most, (name, last) = model.named_parameters()
    send(engine, [*most, (name, last + 1)], 3)
    with pytest.raises(EngineError, match=r"checksum \[\d+, \d+\].* the weights did not arrive"):
        engine.confirm(3, checksum(model.named_parameters()))


def load(worker: Any, update: dict[str, Any]) -> None:
    worker.update_weights(update)


def send(engine: Engine, weights: list[tuple[str, torch.Tensor]], version: int) -> None:
    engine.start_weight_update()
    for data, layout in pack(weights, 50_000):
        engine._llm.collective_rpc(partial(load, update={"data": data, "layout": layout}))
    engine.finish_weight_update(str(version))
