"""What an update would cost: a few layers of the model, with random weights, on a real forest, timed."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from configs.schema import TrainingSettings
from trainer.update import lora
from trainer.update.forest import Forest

FEW, MORE = 1, 4
"""Layers of the two models that are timed; all others cost what each of the difference did."""

REPEATS = 2

BLOCK = 1 << 24
"""Elements that an optimizer's step and a copy are timed on."""


@dataclass(frozen=True)
class UpdateCost:
    """On one device of the machine that was asked.

    gpu_bytes: memory of the GPU; None on a CPU. dtype: of the weights.
    parameters: of the whole model. adapter: of the LoRA adapter, 0 without one; it alone is trained then.
    seconds_per_node: forward and backward pass of one node of a forest, all layers.
    bytes_per_node: activations that the layers keep for the backward pass, per node.
    seconds_per_parameter: AdamW's step. seconds_per_byte: of a copy into fresh memory.
    """

    gpu_bytes: int | None
    dtype: str
    parameters: int
    adapter: int
    seconds_per_node: float
    bytes_per_node: float
    seconds_per_parameter: float
    seconds_per_byte: float


EXAMPLE_UPDATE_COST = UpdateCost(
    gpu_bytes=None,
    dtype="float32",
    parameters=134_515_008,
    adapter=0,
    seconds_per_node=4.1e-3,
    bytes_per_node=6.2e5,
    seconds_per_parameter=2.5e-9,
    seconds_per_byte=4e-10,
)


def probe(
    model: str,
    dtype: str,
    trust_remote_code: bool,
    training: TrainingSettings,
    gpu: bool,
    forest: Forest,
    revision: str | None = None,
) -> UpdateCost:
    """Times the model, cut to a few layers, on `forest`. No weights are read: what they are costs no time."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from trainer.update.policy import Policy, policy_inputs

    config = AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code, revision=revision or "main")
    device = torch.device("cuda" if gpu else "cpu")
    layers = int(config.get_text_config().num_hidden_layers)

    def policy(kept: int, where: torch.device) -> Policy:
        with where:
            whole = AutoModelForCausalLM.from_config(
                _cut(config, kept),
                dtype=getattr(torch, dtype),
                attn_implementation="sdpa",
                trust_remote_code=trust_remote_code,
            )
            lora.adapted(whole, training)
            return Policy(whole, training.gradient_checkpointing)

    def cost(kept: int) -> tuple[float, int]:
        """Seconds, and bytes kept for the backward pass, of a model of so many layers."""
        cut, inputs = policy(kept, device), policy_inputs(forest, device)
        kept_bytes: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            kept_bytes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            logprobs = cut(**inputs)
        weights = {weight.untyped_storage().data_ptr() for weight in cut.parameters()}
        kept_sum = sum(size for pointer, size in kept_bytes.items() if pointer not in weights)
        logprobs.sum().backward()  # the first pass is slower than all others, and not timed
        return _fastest(lambda: cut(**inputs).sum().backward(), gpu), kept_sum

    few, more = min(FEW, layers), min(MORE, layers)
    (seconds_few, bytes_few), (seconds_more, bytes_more) = cost(few), cost(more)
    further = (layers - more) / max(1, more - few)
    seconds = seconds_more + further * max(0.0, seconds_more - seconds_few)
    kept = layers * (bytes_more - bytes_few) / (more - few) if more > few else bytes_few

    block = torch.zeros(BLOCK, device=device)
    master = torch.nn.Parameter(block.cpu() if training.offload else block)
    master.grad = torch.ones_like(master)
    optimizer = torch.optim.AdamW([master], fused=True)  # as `rank.deepspeed_config` has it
    nodes = len(forest.token_ids)
    sizes = {name: weight.numel() for name, weight in policy(layers, torch.device("meta")).named_parameters()}
    adapter = sum(size for name, size in sizes.items() if lora.is_factor(name))
    return UpdateCost(
        gpu_bytes=torch.cuda.get_device_properties(device).total_memory if gpu else None,
        dtype=dtype,
        parameters=sum(sizes.values()) - adapter,
        adapter=adapter,
        seconds_per_node=seconds / nodes,
        bytes_per_node=kept / nodes,
        seconds_per_parameter=_fastest(optimizer.step, gpu) / BLOCK,
        seconds_per_byte=_fastest(block.clone, gpu) / (4 * BLOCK),
    )


def _cut(config: Any, layers: int) -> Any:
    """The model's configuration with its first `layers` layers only."""
    cut = copy.deepcopy(config)
    text = cut.get_text_config()
    types = getattr(text, "layer_types", None)
    text.num_hidden_layers = layers
    if types:
        text.layer_types = types[:layers]
    return cut


def _fastest(work: Callable[[], object], gpu: bool) -> float:
    """Seconds of the fastest of some repeats: what disturbs only ever adds."""
    import torch

    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        if gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
