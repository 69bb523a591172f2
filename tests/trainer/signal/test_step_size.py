"""How far an update goes."""

import math
from dataclasses import replace

import pytest

from tests.launch.samples import groups
from trainer.signal.kinds import Kind
from trainer.signal.step_size import STEEP, WHOLE, StepSize, step_size


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (["learning"] * 4, 1.0),
        (["learning", "solved", "solved", "solved"], 0.5),
        (["floor", "floor", "collapsed", "learning"], 1.0),  # nothing is solved yet
        (["solved"] * 4, 0.5),  # one is shown a right answer again
    ],
)
def test_the_more_is_solved_the_shorter_is_a_step(kinds: list[Kind], expected: float) -> None:
    some = [replace(groups()[0], kind=kind) for kind in kinds]
    assert step_size(some, (), (), 1.0).share == pytest.approx(expected)


@pytest.mark.parametrize(
    ("first_norms", "steep"),
    [((), math.inf), ((7.0,), 7.0), ((7.0, 3.0, 1.0), 3.0), ((0.0, 0.1, 4.0), 1.0)],
)
def test_what_is_steep_is_told_by_the_first_updates(first_norms: tuple[float, ...], steep: float) -> None:
    assert step_size(groups()[:1], first_norms, (), 1.0).steep == STEEP * steep


@pytest.mark.parametrize(("norm", "expected"), [(0.0, 0.5), (1.0, 0.5), (6.0, 0.5), (12.0, 0.25), (600.0, 0.005)])
def test_the_steeper_the_shorter(norm: float, expected: float) -> None:
    assert StepSize(0.5, steep=6.0).of(norm) == pytest.approx(expected)
    assert StepSize(0.5, steep=6.0, recent=60.0).of(norm) == pytest.approx(min(expected, 0.05))
    assert WHOLE.of(norm) == 1.0


def test_a_short_gradient_among_long_ones_is_no_reason_for_a_long_step() -> None:
    assert step_size(groups()[:1], (2.0, 3.0, 4.0), (90.0, 9.0, 45.0), 1.0) == StepSize(1.0, 24.0, 45.0)
    assert step_size(groups()[:1], (2.0, 3.0, 4.0), (90.0, 9.0, 45.0), 1.0).of(1.0) == pytest.approx(24 / 45)
