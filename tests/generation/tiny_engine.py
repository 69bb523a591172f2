"""An engine of a tiny model, and how far it is from what transformers makes of the same weights."""

from typing import Any

import torch

from configs.schema import EngineSettings, SamplingSettings
from generation.engine import Engine, EngineSpec, SampleRequest
from launch.hardware import has_gpu
from tests.tiny import CONTEXT, random_prompt


def tiny_spec(folder: str, **engine: Any) -> EngineSpec:
    """In float32. engine: settings of it."""
    return EngineSpec(
        model=folder,
        revision=None,
        dtype="float32",
        trust_remote_code=False,
        context_length=CONTEXT,
        backend="shared_memory",
        gpu=has_gpu(),
        sleeps=False,
        engine=EngineSettings(**{"engines": 1, "gpu_memory_utilization": 0.45, "enforce_eager": True} | engine),
        sampling=SamplingSettings(max_completion_length=4),
    )


def gap(model: Any, engine: Engine) -> float:
    """Between the log-probabilities of the engine's samples and what the model makes of them, the largest."""
    prompt = random_prompt(9)
    (group,) = engine.sample([SampleRequest(prompt, 16, 1.0, 1)])
    gaps = []
    for completion in group.completions:
        ids = torch.tensor([[*prompt.token_ids, *completion.token_ids]])
        logprobs = model(input_ids=ids).logits[0, len(prompt.token_ids) - 1 : -1].log_softmax(-1)
        expected = logprobs.gather(-1, ids[0, len(prompt.token_ids) :, None])[:, 0]
        gaps.append(float((expected - torch.tensor(list(completion.logprobs))).abs().max()))
    return max(gaps)
