"""What the machine has. Nothing heavy is imported here."""

import os
from pathlib import Path


def machine_bytes() -> float:
    """Memory of the machine, or what the control group that this process is in may use of it."""
    limits = [float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        file = Path("/sys/fs/cgroup") / name
        if file.exists() and (text := file.read_text(encoding="ascii").strip()) != "max":
            limits.append(float(text))
    return min(limits)
