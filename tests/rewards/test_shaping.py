import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import Shaping
from rewards.shaping import verdict


@pytest.mark.parametrize("shaping", ["none", "partial"])
def test_what_is_no_wrong_answer_is_worth_the_same_with_every_shaping(shaping: Shaping) -> None:
    given = [verdict(1.0, False, shaping), verdict(None, False, shaping), verdict(1.0, True, shaping)]
    assert [(each.reward, each.outcome) for each in given] == [
        (1.0, "correct"),
        (-1.0, "malformed"),
        (-1.0, "truncated"),
    ]


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
def test_a_wrong_answer_is_worth_more_the_closer_it_is_and_never_near_a_right_one(one: float, other: float) -> None:
    less, more = (verdict(closeness, False, "partial") for closeness in sorted((one, other)))
    assert -0.5 <= less.reward <= more.reward <= 0.0
    assert less.outcome == more.outcome == "wrong"
    assert verdict(one, False, "none").reward == -1.0
