"""What is asked of a cluster's machines before processes start there; `test_placement` has it on a real Ray."""

from typing import Any

import pytest

from configs.derived import derived
from configs.errors import ConfigError
from configs.schema import Config
from launch.prepare import Prepared
from launch.processes import machines
from launch.processes.placement import Placement
from trainer.update.model_shape import EXAMPLE_SHAPE

GIB = 1 << 30


def told(monkeypatch: pytest.MonkeyPatch, sizes: dict[str, int | None], backend: Any = "ipc") -> list[str]:
    """What is told of a run of Qwen3-0.6B on machines with such GPUs."""
    config = Config.model_validate({"task": {"name": "comparison"}, "run": {"max_steps": 1}})
    task: Any = None
    prepared = Prepared(derived(config, 1), 1, "model", None, 64, EXAMPLE_SHAPE, 0, task)
    monkeypatch.setattr(machines, "_on_each", lambda *asked: sizes)
    lines: list[str] = []
    placement = Placement(backend, ({},), ({},), frozenset("ab"), frozenset("a"))
    machines.refuse_small_gpus(prepared, placement, trains=True, tell=lines.append)
    return lines


def test_the_smallest_gpu_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, {"machine a": 80 * GIB, "machine b": None}) == []
    with pytest.raises(ConfigError, match=r"each holds 1\.1 GiB of weights, .* of a GPU's 16\.0 beside"):
        told(monkeypatch, {"machine a": 80 * GIB, "machine b": 16 * GIB})


def test_what_may_not_fit_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = told(monkeypatch, {"machine a": 24 * GIB})
    assert line.startswith("memory may run short: A rank may need 1.1 GiB of weights")


def test_invented_gpus_and_cpus_are_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, {"machine a": None}) == []
    assert told(monkeypatch, {"machine a": 1}, backend="shared_memory") == []
