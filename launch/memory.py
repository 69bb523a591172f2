"""What a run's processes hold in memory."""

from configs.schema import TrainingSettings
from trainer.update.rank import zero_stage

ITEM_BYTES = {"bfloat16": 2, "float32": 4}


def rank_state_bytes(training: TrainingSettings, parameters: int, dtype: str, adapter: int = 0) -> dict[str, float]:
    """What a DeepSpeed rank holds between steps, by part (ZeRO, arXiv 1910.02054, section 3.1): AdamW has two float32
    moments, and master weights where the weights are bfloat16 or the stage splits the optimizer's state. Gradients
    are summed in float32.

    parameters: weights of the model. adapter: of its LoRA adapter, 0 without one; it alone has gradients then.
    """
    ranks, stage, item = training.ranks, zero_stage(training, dtype), ITEM_BYTES[dtype]
    masters = 4 if stage or dtype == "bfloat16" else 0
    trained = adapter or parameters
    reference = parameters * item if training.beta and not adapter else 0
    return {
        "weights": (parameters + adapter) * item / (ranks if stage >= 3 else 1) + reference,
        "gradients": trained * 4 / (ranks if stage >= 2 else 1),
        "optimizer": trained * (8 + masters) / (ranks if stage >= 1 else 1),
    }
