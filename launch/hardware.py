"""What this machine can compute with."""

import os
from pathlib import Path
from typing import Literal

DRIVER = Path("/dev/nvidiactl")
"""It is there where NVIDIA's driver is."""


def has_gpu() -> bool:
    """Whether an NVIDIA GPU is visible, told without importing torch."""
    return os.environ.get("CUDA_VISIBLE_DEVICES") != "" and DRIVER.exists()


def gpus() -> int:
    """NVIDIA GPUs that are visible, counted as Ray counts them."""
    if not has_gpu():
        return 0
    from ray._private.accelerators import NvidiaGPUAcceleratorManager as Manager

    visible, there = (
        Manager.get_current_process_visible_accelerator_ids(),
        Manager.get_current_node_num_accelerators(),
    )
    return there if visible is None else min(there, len(visible))


def gpu_bytes() -> int | None:
    """Memory of this machine's smallest NVIDIA GPU, visible here or not (Ray hides them from those that asked for
    none); None where there is none."""
    if not DRIVER.exists():
        return None
    from ray._private.thirdparty import pynvml

    pynvml.nvmlInit()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return min((int(pynvml.nvmlDeviceGetMemoryInfo(handle).total) for handle in handles), default=None)
    finally:
        pynvml.nvmlShutdown()


def dtype(configured: Literal["auto", "bfloat16", "float32"], gpu: bool) -> Literal["bfloat16", "float32"]:
    """`model.dtype` resolved: `auto` is bfloat16 where the hardware multiplies it fast, else float32."""
    if configured != "auto":
        return configured
    return "bfloat16" if gpu or _cpu_has_bfloat16() else "float32"


def _cpu_has_bfloat16() -> bool:
    """oneDNN's condition: AVX-512 on x86. Without it bfloat16 is emulated, many times slower than float32."""
    try:
        return "avx512bw" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
