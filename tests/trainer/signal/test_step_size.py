"""How far an update goes."""

from dataclasses import replace

import pytest

from tests.launch.samples import groups
from trainer.signal.kinds import Kind
from trainer.signal.step_size import step_size


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
    assert step_size(some) == pytest.approx(expected)
