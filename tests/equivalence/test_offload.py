"""An update with the optimizer, or weights too, in the machine's memory is the same update, with the real DeepSpeed.

On a CPU that is the same memory; DeepSpeed goes the way that it goes on a GPU, but for the copies between the two.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.equivalence.rank_process import Done
from tests.equivalence.test_ranks import LEARNING_RATE, LORA, STEPS, job, launch
from tests.tiny import make_tiny_model

pytestmark = pytest.mark.timeout(400)

CASES: dict[str, tuple[int, int, str, str, dict[str, Any]]] = {
    "optimizer": (1, 1, "float32", "optimizer", {}),
    "optimizer, bfloat16": (1, 1, "bfloat16", "optimizer", {}),
    "adapter with a reference": (1, 3, "float32", "parameters", {"beta": 0.1, **LORA}),
    "a reference": (1, 3, "float32", "parameters", {"beta": 0.1, "num_iterations": 2}),
    "two ranks' optimizer": (2, 2, "float32", "optimizer", {}),
    "two ranks' optimizer, bfloat16": (2, 2, "bfloat16", "optimizer", {}),
    "two ranks' weights": (2, 3, "float32", "parameters", {}),
    "two ranks' weights, bfloat16": (2, 3, "bfloat16", "parameters", {}),
}
"""Ranks, ZeRO stage, number format, what is offloaded, and other settings."""

RESUMED = [name for name in CASES if "reference" not in name]

Results = Callable[[str], list[Done]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Name of a job -> what each rank did."""
    folder = tmp_path_factory.mktemp("offload")
    model = str(make_tiny_model(folder / "model"))
    done: dict[int, list[dict[str, Done]]] = {}

    def get(name: str) -> list[Done]:
        ranks = CASES[name.partition(":")[0]][0]
        if ranks not in done:
            done[ranks] = launch(folder / f"{ranks}.jobs", [replace(one, model=model) for one in _jobs(ranks)], ranks)
        return [rank[name] for rank in done[ranks]]

    return get


def _jobs(ranks: int) -> list[Any]:
    """Two updates without and with offloading; and the second after a checkpoint, on a process that made none."""
    jobs = []
    for name, (of_ranks, stage, dtype, offload, more) in CASES.items():
        if of_ranks != ranks:
            continue
        plain = replace(job(f"{name}: plain", ranks, stage, STEPS, dtype, **more), max_steps=5)
        whole = replace(job(f"{name}: whole", ranks, stage, STEPS, dtype, offload=offload, **more), max_steps=5)
        jobs += [plain, whole]
        if name in RESUMED:
            begun = replace(whole, name=f"{name}: begun", steps=STEPS[:1], save=True)
            jobs += [begun, replace(begun, name=f"{name}: ended", steps=STEPS[1:], load=(begun.name, 1), save=False)]
    return jobs


@pytest.mark.parametrize("name", CASES)
def test_offloaded_updates_are_the_same_updates(results: Results, name: str) -> None:
    for plain, ours in zip(results(f"{name}: plain"), results(f"{name}: whole"), strict=True):
        for theirs, report in zip(plain.reports, ours.reports, strict=True):
            assert report.loss == pytest.approx(theirs.loss, rel=1e-5, abs=1e-6)
            assert report.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-5)
            assert report.learning_rate == theirs.learning_rate
        assert ours.weights.keys() == plain.weights.keys()
        apart = [
            (ours.weights[key].float() - weight.float()).abs().flatten() for key, weight in plain.weights.items()
        ]
        # A rank alone sums in another order without ZeRO; AdamW hides no rounding of a gradient that nearly cancels,
        # and bfloat16 none of a master in the middle between two weights.
        assert (torch.cat(apart) > 1e-6).float().mean() < 1e-4
        assert CASES[name][2] == "bfloat16" or torch.cat(apart).max() < 0.01 * LEARNING_RATE


@pytest.mark.parametrize("name", RESUMED)
def test_going_on_from_a_checkpoint_with_offloading_is_going_on(results: Results, name: str) -> None:
    parts = (results(f"{name}: {part}") for part in ("whole", "begun", "ended"))
    for whole, begun, ended in zip(*parts, strict=True):
        assert whole.reports == (*begun.reports, *ended.reports)
        assert all(torch.equal(weight, ended.weights[key]) for key, weight in whole.weights.items())
        assert not all(torch.equal(weight, ended.weights[key]) for key, weight in begun.weights.items())
