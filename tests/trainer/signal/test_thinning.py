"""A thinned lesson stands for the whole one."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.equivalence.dense import make_lesson
from trainer.signal.advantages import Lesson
from trainer.signal.thinning import inclusion, systematic, thinned

positive = st.floats(1e-3, 1e3)


@st.composite
def sizes_and_limit(draw: st.DrawFn) -> tuple[NDArray[np.float64], int]:
    sizes = draw(st.lists(positive, min_size=3, max_size=40))
    return np.array(sizes), draw(st.integers(2, len(sizes) - 1))


def lesson_of(distinct: int) -> Lesson:
    """One right answer in four; counts 1, 2, 3, 1, ..."""
    return make_lesson([1, 2], [([5 + i, 3], 1 + i % 3, float(i % 4 == 0)) for i in range(distinct)])


@settings(max_examples=200, derandomize=True)
@given(given_=sizes_and_limit(), start=st.floats(0, 1, exclude_max=True))
@example(given_=(np.array([1, 6, 6, 6, 1.75, 0.5, 1, 1, 6]), 5), start=0.0)  # a sum of 4 and its rounding
def test_as_many_are_chosen_as_may_be_in_proportion_to_their_size(
    given_: tuple[NDArray[np.float64], int], start: float
) -> None:
    sizes, limit = given_
    chances = inclusion(sizes, limit)
    assert chances.sum() == pytest.approx(limit)
    assert chances.max() <= 1 + 1e-12
    uncertain = chances < 1 - 1e-9
    if uncertain.any():
        ratio = chances[uncertain] / sizes[uncertain]
        np.testing.assert_allclose(ratio, ratio[0])
        assert (sizes[~uncertain] * ratio[0] >= 1 - 1e-6).all()  # who is certain would exceed a chance of 1
    chosen = systematic(chances, start)
    assert len(chosen) == limit
    assert np.isin(np.flatnonzero(chances > 1 - 1e-12), chosen).all()


def test_each_is_chosen_with_its_chance() -> None:
    chances = inclusion(np.random.default_rng(0).lognormal(0, 1.5, 40), 8)
    starts = (np.arange(5000) + 0.5) / 5000
    chosen = np.concatenate([systematic(chances, start) for start in starts])
    np.testing.assert_allclose(np.bincount(chosen, minlength=40) / 5000, chances, atol=1e-3)


def test_on_average_it_is_the_whole_lesson() -> None:
    lesson = lesson_of(60)
    many = [thinned(lesson, 12, seed) for seed in range(4000)]
    assert {np.count_nonzero(one.weights) for one in many} == {12}
    weights = np.array([one.weights for one in many])
    error = weights.std(0) / np.sqrt(len(many))
    assert (np.abs(weights.mean(0) - lesson.weights) < 5 * error).all()
    # The sum that the loss is: much nearer to the whole one's than any twelve with equal chances would come.
    sums = weights @ np.abs(lesson.advantages)
    assert sums.std() < 0.1 * sums.mean()


def test_right_and_wrong_keep_their_shares() -> None:
    lesson = lesson_of(60)
    right = lesson.advantages > 0
    for seed in range(50):
        kept = thinned(lesson, 12, seed).weights
        assert kept[right].sum() == pytest.approx(lesson.weights[right].sum(), rel=0.35)
        assert kept[~right].sum() == pytest.approx(lesson.weights[~right].sum(), rel=0.35)


def test_the_seed_decides() -> None:
    lesson = lesson_of(60)
    np.testing.assert_array_equal(thinned(lesson, 12, 7).weights, thinned(lesson, 12, 7).weights)
    assert (thinned(lesson, 12, 7).weights != thinned(lesson, 12, 8).weights).any()


@pytest.mark.parametrize("limit", [None, 60, 100])
def test_a_lesson_that_is_small_enough_stays_as_it_is(limit: int | None) -> None:
    lesson = lesson_of(60)
    assert thinned(lesson, limit, 0) is lesson


def test_what_is_outside_the_loss_stays_outside() -> None:
    lesson = lesson_of(60)
    in_loss = np.arange(60) < 30
    lesson = replace(lesson, in_loss=in_loss, weights=np.where(in_loss, lesson.weights, 0.0))
    thin = thinned(lesson, 10, 0)
    assert np.count_nonzero(thin.weights) == 10
    assert not thin.weights[30:].any()
    assert (thin.num_samples, thin.num_tokens) == (lesson.num_samples, lesson.num_tokens)


def test_a_lesson_without_advantages_is_thinned_by_its_counts() -> None:
    same = make_lesson([1, 2], [([5 + i, 3], 1 + i % 3, 1.0) for i in range(40)])
    thin = thinned(same, 16, seed=3)
    assert np.count_nonzero(thin.weights) == 16
    assert thin.weights.sum() == pytest.approx(same.weights.sum())
