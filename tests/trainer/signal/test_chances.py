from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.signal.chances import chance_of_contrast, chance_of_right, chance_of_signal

DRAWS = 40_000
"""A share of them is known to 0.0025 (one standard error)."""


def drawn(counts: list[int], n: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """[draws, kinds] groups of `n`: shares are drawn from the posterior after `counts`, then samples from them."""
    generator = np.random.default_rng(0)
    shares = generator.dirichlet(np.array(counts) + 0.5, DRAWS)
    return generator.multinomial(n, shares)


@pytest.mark.parametrize(("correct", "samples"), [(0, 16), (1, 64), (3, 256), (64, 64)])
@pytest.mark.parametrize("n", [1, 8, 128])
def test_right_answers_turn_up_as_often_as_in_draws(correct: int, samples: int, n: int) -> None:
    groups = drawn([correct, samples - correct], n)
    right, wrong = groups[:, 0], groups[:, 1]
    assert chance_of_right(correct, samples, n) == pytest.approx((right > 0).mean(), abs=0.01)
    assert chance_of_contrast(correct, samples, n) == pytest.approx(((right > 0) & (wrong > 0)).mean(), abs=0.01)


@pytest.mark.parametrize("counts", [[256], [255, 1], [20, 20, 24], [1] * 12])
@pytest.mark.parametrize("n", [2, 16, 256])
def test_rewards_differ_as_often_as_in_draws(counts: list[int], n: int) -> None:
    groups = drawn([*counts, 0], n)  # one kind more than was seen
    by_reward = {float(index): count for index, count in enumerate(counts)}
    assert chance_of_signal(by_reward, n) == pytest.approx((groups.max(axis=1) < n).mean(), abs=0.01)


def test_one_reward_only_is_no_proof() -> None:
    assert 0.2 < chance_of_signal({-1.0: 256}, 256) < 0.4
    assert chance_of_signal({-1.0: 256}, 8) < 0.02


def test_small_chances_that_are_known() -> None:
    assert chance_of_right(0, 0, 1) == pytest.approx(0.5)
    assert chance_of_right(1, 3, 1) == pytest.approx(1.5 / 4)
    assert chance_of_contrast(0, 0, 1) == pytest.approx(0)
    assert chance_of_contrast(1, 2, 2) == pytest.approx(1 - 2 * (1.5 * 2.5) / (3 * 4))


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(1, 2000))
def test_chances_are_chances_and_grow_with_the_group(correct: int, wrong: int, n: int) -> None:
    samples = correct + wrong
    chances: tuple[Callable[[int], float], ...] = (
        lambda size: chance_of_right(correct, samples, size),
        lambda size: chance_of_contrast(correct, samples, size),
        lambda size: chance_of_signal({1.0: correct, -1.0: wrong}, size),
    )
    for chance in chances:
        assert -1e-9 <= chance(n) <= chance(n + 1) + 1e-9 <= 1 + 2e-9
    assert chance_of_contrast(correct, samples, n) <= chance_of_right(correct, samples, n) + 1e-9
