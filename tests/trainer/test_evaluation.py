from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.evaluation import doubling, pass_at


@given(st.integers(1, 9), st.data())
def test_pass_at_k_is_the_share_of_choices_that_hold_a_right_one(samples: int, data: st.DataObject) -> None:
    right, k = data.draw(st.integers(0, samples)), data.draw(st.integers(1, samples))
    chosen = list(combinations(range(samples), k))
    assert pass_at(k, samples, right) == pytest.approx(sum(min(one) < right for one in chosen) / len(chosen))


def test_it_grows_with_k_and_does_not_overflow() -> None:
    chances = [pass_at(k, 65_536, 3) for k in doubling(65_536)]
    assert chances == sorted(chances) and chances[0] == 3 / 65_536 and chances[-1] == 1.0


@pytest.mark.parametrize(
    ("most", "ks"), [(1, [1]), (2, [1, 2]), (128, [1, 2, 4, 8, 16, 32, 64, 128]), (6, [1, 2, 4, 6])]
)
def test_ks_double(most: int, ks: list[int]) -> None:
    assert doubling(most) == ks
