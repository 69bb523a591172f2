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

from configs.schema import EngineSettings, SamplingSettings
from generation.buckets import pack
from generation.checksum import checksum
from generation.engine import Engine, EngineError, EngineSpec, SampleRequest
from launch.hardware import has_gpu
from tests.generation.own_process import undone
from tests.tiny import CONTEXT, load_tiny_model, make_tiny_model, random_prompt

pytestmark = [
    pytest.mark.skipif(has_gpu(), reason="one GPU cannot hold both halves"),
    pytest.mark.timeout(300),
]


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # or vLLM wants a NUMA node for each half
    monkeypatch.setenv("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")  # for `load`
    with undone():
        engine = Engine(
            EngineSpec(
                model=make_tiny_model(tmp_path),
                revision=None,
                dtype="float32",
                trust_remote_code=False,
                context_length=CONTEXT,
                backend="shared_memory",
                gpu=False,
                sleeps=False,
                engine=EngineSettings(
                    engines=1, tensor_parallel_size=2, gpu_memory_utilization=0.45, enforce_eager=True
                ),
                sampling=SamplingSettings(max_completion_length=4),
            )
        )
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
        prompt = random_prompt(9)
        (group,) = engine.sample([SampleRequest(prompt, 16, 1.0, 1)])
        assert group.policy_version == version
        for completion in group.completions:
            ids = torch.tensor([[*prompt.token_ids, *completion.token_ids]])
            logprobs = model(input_ids=ids).logits[0, len(prompt.token_ids) - 1 : -1].log_softmax(-1)
            expected = logprobs.gather(-1, ids[0, len(prompt.token_ids) :, None])[:, 0]
            assert torch.allclose(expected, torch.tensor(list(completion.logprobs)), atol=1e-4)

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
