"""What null stands for, on machines with and without GPUs."""

from typing import Any

import pytest

from configs.derived import derived, processes
from configs.schema import Config


def on(gpus: int, **sections: Any) -> tuple[int, int, float, bool]:
    """Engines, ranks, share of a GPU's memory, and whether the model is not compiled."""
    config = Config.model_validate({"task": {"name": "comparison"}, "run": {"max_steps": 1}} | sections)
    found = derived(config, gpus)
    assert derived(found, gpus) == found
    engine = found.engine
    return engine.engines, found.training.ranks, engine.gpu_memory_utilization, engine.enforce_eager


def test_without_gpus_there_is_one_of_each_at_once() -> None:
    assert on(0) == (1, 1, 0.45, True)


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [(1, (1, 1, 0.45, False)), (2, (1, 1, 0.9, False)), (3, (1, 2, 0.9, False)), (8, (4, 4, 0.9, False))],
)
def test_one_gpu_is_shared_and_of_several_half_are_the_engines(gpus: int, expected: tuple[Any, ...]) -> None:
    assert on(gpus) == expected


def test_what_is_set_stays() -> None:
    engine = {"engines": 2, "gpu_memory_utilization": 0.3, "enforce_eager": True}
    assert on(8, engine=engine, training={"ranks": 3}) == (2, 3, 0.3, True)
    assert on(0, engine=engine | {"enforce_eager": False}, training={"ranks": 3}) == (2, 3, 0.3, False)


@pytest.mark.parametrize(
    ("engines", "ranks", "workers", "gpus", "expected"),
    [
        (None, 1, 1, 8, (7, 1)),
        (3, None, 1, 8, (3, 5)),
        (None, None, 2, 8, (2, 4)),
        (None, None, 4, 8, (1, 4)),
        (None, 4, 1, 4, (4, 4)),  # shared
        (2, None, 1, 2, (2, 2)),  # shared
        (None, None, 8, 8, (1, 8)),  # cannot be, and is refused
    ],
)
def test_one_number_follows_from_the_other(
    engines: int | None, ranks: int | None, workers: int, gpus: int, expected: tuple[int, int]
) -> None:
    assert processes(engines, ranks, workers, gpus) == expected


def test_engines_of_several_gpus_have_them_for_themselves() -> None:
    assert on(2, engine={"tensor_parallel_size": 2})[2] == 0.9
