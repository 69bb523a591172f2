"""What a run's processes hold in memory, and what the machine has."""

import os
from pathlib import Path

from configs.schema import TrainingSettings

ITEM_BYTES = {"bfloat16": 2, "float32": 4}


def rank_state_bytes(training: TrainingSettings, parameters: int, dtype: str) -> dict[str, float]:
    """What a DeepSpeed rank holds between steps, by part (ZeRO, arXiv 1910.02054, section 3.1): AdamW has two float32
    moments, and master weights where the weights are bfloat16 or the stage splits the optimizer's state."""
    ranks, stage, item = training.ranks, training.zero_stage, ITEM_BYTES[dtype]
    masters = 4 if stage or dtype == "bfloat16" else 0
    reference = parameters * item if training.beta else 0
    return {
        "weights": parameters * item / (ranks if stage >= 3 else 1) + reference,
        "gradients": parameters * item / (ranks if stage >= 2 else 1),
        "optimizer": parameters * (8 + masters) / (ranks if stage >= 1 else 1),
    }


def machine_bytes() -> float:
    """Memory of the machine, or what the control group that this process is in may use of it."""
    limits = [float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        file = Path("/sys/fs/cgroup") / name
        if file.exists() and (text := file.read_text(encoding="ascii").strip()) != "max":
            limits.append(float(text))
    return min(limits)
