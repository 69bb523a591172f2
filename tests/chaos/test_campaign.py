"""That the campaign would see what is wrong."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.campaign import Outcome, different
from tests.chaos.faults import EXAMPLE_FAULT, KINDS, PHASES, Fault, draw
from tests.chaos.places import Places
from tests.chaos.table import tables


@given(st.integers(0, 2**32), st.integers(0, 100))
def test_a_seed_draws_the_same_faults_and_every_kind_before_one_comes_again(seed: int, number: int) -> None:
    faults = draw(number, seed)
    assert faults == draw(number, seed) and len(faults) == number
    assert len({fault.kind for fault in faults[: len(KINDS)]}) == min(number, len(KINDS))
    assert len({fault.phase for fault in faults[: len(PHASES)]}) == min(number, len(PHASES))
    assert [Fault.of_json(fault.json) for fault in faults] == list(faults)


def logged(folder: Path, *rewards: float) -> Places:
    places = Places(folder)
    places.run.mkdir(parents=True)
    rows = [{"step": step, "reward": reward} for step, reward in enumerate(rewards, 1)]
    for name, more in (("metrics.jsonl", {"seconds_step": id(places)}), ("groups.jsonl", {})):
        (places.run / name).write_text("".join(json.dumps({**row, **more}) + "\n" for row in rows))
    return places


@pytest.mark.parametrize(
    ("mine", "problem"),
    [
        ((0.5, 0.25), ""),
        ((), ""),
        ((0.5, 0.25, 0.125), ""),
        ((0.5, 0.75), "line 2 of metrics.jsonl is not as without faults: reward"),
        ((0.5, 0.25, 0.125, 0.0), "metrics.jsonl has 4 lines, without faults 3"),
    ],
)
def test_what_was_logged_must_be_the_beginning_of_what_an_undisturbed_run_logs(
    mine: tuple[float, ...], problem: str, tmp_path: Path
) -> None:
    undisturbed = logged(tmp_path / "undisturbed", 0.5, 0.25, 0.125)
    assert different(logged(tmp_path / "disturbed", *mine), undisturbed) == problem


def test_a_line_that_is_being_written_does_not_count(tmp_path: Path) -> None:
    places = logged(tmp_path, 0.5)
    with (places.run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "rew')
    assert places.rows() == 1


def test_the_tables_count_what_was_right_and_tell_median_and_most() -> None:
    outcomes = [
        Outcome(EXAMPLE_FAULT, 1.0, 10.0, ""),
        Outcome(EXAMPLE_FAULT, None, 30.0, ""),
        Outcome(EXAMPLE_FAULT, 2.0, None, "it hangs"),
    ]
    row = "| SIGKILL, engine | 3 | 2 | 1.5, at most 2.0 | 20.0, at most 30.0 |"
    assert row in tables(outcomes)
    assert row.replace("SIGKILL, engine", "syncing") in tables(outcomes)
