"""What a run's processes hold in memory, part by part, in bytes: formulas."""

from configs.schema import TrainingSettings
from trainer.update.buffer_sizes import LOGITS_AT_ONCE, LOGITS_SHARE
from trainer.update.model_shape import ModelShape
from trainer.update.rank import zero_stage

ITEM_BYTES = {"bfloat16": 2, "float32": 4}

BUCKET, LIVE = ("reduce_bucket_size", 5e8), ("stage3_max_live_parameters", 1e9)
"""DeepSpeed's names and defaults, in elements: gradients reduced at once, and weights that are whole at once."""

LOGITS_COPIES = 3
"""The logits of some parents, their softmax, and the gradient."""

SAMPLING_COPIES = 3
"""Logits of all sequences while an engine draws: float32, sorted or masked, and their log-probabilities."""


def rank_state_bytes(training: TrainingSettings, parameters: int, dtype: str, adapter: int = 0) -> dict[str, float]:
    """What a DeepSpeed rank holds between steps, by part (ZeRO, arXiv 1910.02054, section 3.1): AdamW has two float32
    moments, and master weights where the weights are bfloat16 or the stage splits the optimizer's state. Gradients
    are summed in float32: 4 bytes a parameter, where the paper has 2. Without what `rank_host_bytes` has.

    parameters: weights of the model. adapter: of its LoRA adapter, 0 without one; it alone has gradients then.
    """
    ranks, stage, item = training.ranks, zero_stage(training, dtype), ITEM_BYTES[dtype]
    masters = 4 if stage or dtype == "bfloat16" else 0
    trained = adapter or parameters
    reference = parameters * item if training.beta and not adapter else 0
    weights = (parameters + adapter) * item / (ranks if stage >= 3 else 1)
    gradients = trained * 4 / (ranks if stage >= 2 else 1)
    return {
        "weights": (0.0 if training.offload == "parameters" else weights) + reference,
        "gradients": 0.0 if training.offload and stage == 3 else gradients,
        "optimizer": 0.0 if training.offload else trained * (8 + masters) / (ranks if stage >= 1 else 1),
    }


def rank_host_bytes(training: TrainingSettings, parameters: int, dtype: str, adapter: int = 0) -> dict[str, float]:
    """What of a rank `training.offload` has in the machine's memory, at least; nothing without it. Arguments as of
    `rank_state_bytes`.

    The gradient that AdamW reads is there beside the sum of those of micro-batches, which in bfloat16 at stage 2
    stays on the GPU; and at stage 2 the new weights, on their way back.
    """
    if not training.offload:
        return {}
    ranks, stage, item = training.ranks, zero_stage(training, dtype), ITEM_BYTES[dtype]
    trained = adapter or parameters
    weights = {"optimizer": 0, "parameters": parameters + adapter}[training.offload] if stage == 3 else trained
    sums = 0 if stage == 2 and dtype == "bfloat16" else 4
    return {
        "weights": weights * item / ranks,
        "gradients": trained * (4 + sums) / ranks,
        "optimizer": trained * 12 / ranks,
    }


def rank_buffer_bytes(training: TrainingSettings, parameters: int, dtype: str) -> float:
    """Buffers of an update (`deepspeed.runtime.zero`): from stage 2 on gradients on their way to the rank that keeps
    them, at stage 3 weights that are gathered."""
    stage, item = zero_stage(training, dtype), ITEM_BYTES[dtype]
    gradients = _elements(training, *BUCKET) if stage >= 2 else 0.0
    gathered = min(_elements(training, *LIVE), parameters) if stage >= 3 else 0.0
    return (gradients + gathered) * item


def _elements(training: TrainingSettings, name: str, default: float) -> float:
    """As `training.deepspeed` has it, if it does."""
    zero = training.deepspeed.get("zero_optimization")
    given = zero.get(name) if isinstance(zero, dict) else None
    return float(given) if isinstance(given, int | float) else default


def layer_bytes(shape: ModelShape, dtype: str) -> float:
    """What one layer keeps of one token for the backward pass.

    Korthikanti et al. (arXiv 2205.05198, section 4.1) count what each operation reads again. Here these are other
    operations: norms computed in float32, also of queries and keys (as in Qwen3; a model without them keeps about a
    sixth less), gated MLPs, grouped heads, FlexAttention, which keeps no scores, and no dropout.
    """
    item = ITEM_BYTES[dtype]
    queries, keys = shape.heads * shape.head_dim, shape.key_value_heads * shape.head_dim
    norms = 2 * (4 + 2 * item) * shape.hidden_size + 8  # input in float32, normalised, and output; 1 / RMS
    head_norms = (4 + item) * (queries + keys) + 4 * (shape.heads + shape.key_value_heads)
    attention = item * (3 * queries + 2 * keys) + 4 * shape.heads  # q, k, v, output as it is and in rows; log-sum-exp
    mlp = 4 * item * shape.intermediate_size  # gate, its activation, up, their product
    return norms + head_norms + attention + mlp


def activation_bytes(shape: ModelShape, dtype: str, tokens: float, checkpointing: bool) -> float:
    """Activations of a forward pass over `tokens` nodes of a forest; with `checkpointing` the input of every layer,
    and all of the one that is computed again (arXiv 2205.05198, section 5)."""
    layer = layer_bytes(shape, dtype)
    if checkpointing:
        return tokens * (shape.layers * ITEM_BYTES[dtype] * shape.hidden_size + layer)
    return tokens * shape.layers * layer


def logits_bytes(shape: ModelShape, dtype: str, tokens: float, gpu_bytes: float | None) -> float:
    """Logits that exist at a time (`trainer.update.policy.logits_at_once`) in float32, with what is computed of them,
    and their gradient of the head. gpu_bytes: of the GPU; None on a CPU."""
    at_once = LOGITS_AT_ONCE * 4 if gpu_bytes is None else gpu_bytes / LOGITS_SHARE
    head = ITEM_BYTES[dtype] * shape.vocab_size * shape.hidden_size
    return LOGITS_COPIES * min(at_once, 4 * tokens * shape.vocab_size) + head


def token_cache_bytes(shape: ModelShape, dtype: str, workers: int) -> float:
    """Keys and values of one token on each of an engine's `workers` GPUs (PagedAttention, arXiv 2309.06180, section
    3). A head is on one of them at least."""
    heads = max(1.0, shape.key_value_heads / workers)
    return 2 * shape.layers * heads * shape.head_dim * ITEM_BYTES[dtype]


def engine_workspace_bytes(shape: ModelShape, dtype: str, workers: int, tokens: int, sequences: int) -> float:
    """What vLLM's profiling run finds besides the weights, estimated: of the batch's `tokens` a layer's residual and
    hidden states, gate, up and their product; of `sequences` the logits."""
    layer = tokens * ITEM_BYTES[dtype] * (4 * shape.hidden_size + 3 * shape.intermediate_size / workers)
    return layer + SAMPLING_COPIES * 4 * sequences * shape.vocab_size
