"""Drawing next tokens."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from generation.drawing import BLOCK_TOKENS, Draws, Truncation, draw, mixed, random_numbers
from tests.statistics import SUSPICIOUS, surprise

Row = tuple[list[int], list[int], list[float]]
"""Token ids, counts and log-probabilities of a row's draws."""


def row_of(draws: Draws, row: int) -> Row:
    some = slice(draws.starts[row], draws.starts[row + 1])
    return draws.token_ids[some].tolist(), draws.counts[some].tolist(), draws.logprobs[some].tolist()


def log_of(weights: Sequence[float]) -> torch.Tensor:
    logits = torch.tensor(np.log(np.maximum(weights, 1e-300)), dtype=torch.float64)
    return logits.where(torch.tensor(weights) > 0, -torch.inf)


def draw_one(weights: Sequence[float], uniforms: NDArray[np.float64]) -> Row:
    """One row of a draw, between two rows of other lengths."""
    logits = log_of(weights)
    rows = torch.stack([logits.flip(0), logits, torch.zeros_like(logits)])
    numbers = np.concatenate([np.linspace(0, 0.9, 3), uniforms, np.linspace(0, 0.9, 7)])
    return row_of(draw(rows, [1.0, 1.0, 0.5], Truncation(), numbers, np.array([3, len(uniforms), 7])), 1)


@pytest.mark.parametrize("vocabulary", [9, BLOCK_TOKENS, 3 * BLOCK_TOKENS + 5])
@pytest.mark.parametrize("count", [1, 2, 256])
def test_draws_follow_the_weights(count: int, vocabulary: int) -> None:
    weights = np.random.default_rng(1).random(vocabulary) ** 3 * (np.arange(vocabulary) % 4 > 0)
    rows, rng = 40_000 // count, np.random.default_rng(0)
    logits, counts = log_of(weights.tolist()).float().repeat(rows, 1), np.full(rows, count)
    drawn = draw(logits, [1.0] * rows, Truncation(), rng.random(rows * count), counts)
    total = np.bincount(drawn.token_ids, drawn.counts, vocabulary)
    assert abs(surprise(total, weights)) < SUSPICIOUS


def test_the_measure_sees_a_bias_and_a_lack_of_chance() -> None:
    weights = np.linspace(1.0, 5.0, 30)
    rng = np.random.default_rng(0)
    assert surprise(rng.multinomial(20_000, (weights**1.2) / (weights**1.2).sum()), weights) > SUSPICIOUS
    assert surprise(np.round(20_000 * weights / weights.sum()), weights) < -SUSPICIOUS
    assert surprise([10, 0, 1], [1, 1, 0]) == float("inf")


@settings(max_examples=200, derandomize=True)
@given(
    weights=st.lists(st.sampled_from([0.0, 1e-30, 0.1, 1.0, 3e7]), min_size=1, max_size=9).filter(any),
    copies=st.sampled_from([1, 40]),
    count=st.integers(1, 300),
    seed=st.integers(0, 2**32),
)
def test_a_draw_is_distinct_indices_of_weight_most_frequent_first(
    weights: list[float], copies: int, count: int, seed: int
) -> None:
    weights = weights * copies
    tokens, counts, logprobs = draw_one(weights, np.random.default_rng(seed).random(count))
    assert sum(counts) == count
    assert min(counts) > 0
    assert counts == sorted(counts, reverse=True)
    assert len(set(tokens)) == len(tokens)
    assert all(weights[token] > 0 for token in tokens)
    expected = np.log(np.array(weights)[tokens] / sum(weights))
    np.testing.assert_allclose(logprobs, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("at", [0.0, np.nextafter(1.0, 0.0)])
@pytest.mark.parametrize("scale", [1.0, 0.1, 3e7, 1e-8])
@pytest.mark.parametrize("padding", [0, BLOCK_TOKENS])
def test_the_ends_of_the_random_numbers_hit_no_weightless_token(at: float, scale: float, padding: int) -> None:
    weights = [0.0] * padding + [0.0, 0.3 * scale, 0.7 * scale, 0.0] + [0.0] * padding
    tokens, _, _ = draw_one(weights, np.array([at]))
    assert tokens == ([padding + 1] if at == 0.0 else [padding + 2])


@pytest.mark.parametrize("temperature", [0.5, 1.7])
def test_rows_have_temperatures_of_their_own(temperature: float) -> None:
    logits, uniforms, both = torch.randn(2, 9), np.random.default_rng(0).random((2, 40)), np.array([40, 40])
    drawn = draw(logits, [1.0, temperature], Truncation(top_k=7), uniforms.reshape(-1), both)
    for row, divisor in enumerate([1.0, temperature]):
        again = draw(logits[row : row + 1] / divisor, [1.0], Truncation(top_k=7), uniforms[row], both[:1])
        assert row_of(drawn, row)[:2] == row_of(again, 0)[:2]
        np.testing.assert_allclose(row_of(drawn, row)[2], row_of(again, 0)[2], atol=1e-6)


@pytest.mark.parametrize("truncation", [Truncation(top_k=2), Truncation(top_p=0.6), Truncation(min_p=0.5)])
def test_what_truncation_excludes_is_never_drawn_and_the_rest_as_often_as_before(truncation: Truncation) -> None:
    weights = np.array([0.05, 0.4, 0.05, 0.3, 0.2])
    drawn = draw(
        log_of(weights.tolist())[None], [1.0], truncation, np.random.default_rng(0).random(5000), np.array([5000])
    )
    tokens, counts, logprobs = row_of(drawn, 0)
    assert set(tokens) == allowed(weights, truncation) != set(range(5))
    assert abs(surprise(counts, weights[tokens])) < SUSPICIOUS
    np.testing.assert_allclose(logprobs, np.log(weights[tokens]), atol=1e-6)  # of all tokens


def test_temperature_0_takes_the_likeliest_beside_rows_that_draw() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [0.0, 0.0, 0.0]])
    drawn = draw(logits, [0.0, 1.0], Truncation(top_p=0.5), np.array([0.99, 0.99, 0.01]), np.array([2, 1]))
    tokens, counts, logprobs = row_of(drawn, 0)
    assert (tokens, counts) == ([1], [2])
    assert logprobs == pytest.approx([logits[0].log_softmax(-1)[1].item()], abs=1e-6)


def test_random_numbers_are_of_key_position_and_nothing_else() -> None:
    keys, positions, counts = np.array([5, 6, 5], np.uint64), np.array([0, 0, 1]), np.array([3, 1, 2])
    numbers = random_numbers(keys, positions, counts)
    assert len({*numbers.tolist()}) == 6
    assert ((numbers >= 0) & (numbers < 1)).all()
    alone = random_numbers(keys[2:], positions[2:], np.array([5]))
    assert alone[:2].tolist() == numbers[4:].tolist()


def test_random_numbers_are_even_across_keys_positions_and_draws() -> None:
    """Of neighbouring keys and positions, as they are given: single numbers, and pairs of neighbours."""
    many = np.arange(300)
    by_key = random_numbers(many.astype(np.uint64), np.zeros(300, np.int64), np.full(300, 200))
    by_position = random_numbers(np.zeros(300, np.uint64), many, np.full(300, 200))
    alone = random_numbers(np.zeros(60_000, np.uint64), np.arange(60_000), np.ones(60_000, np.int64))
    for numbers in (by_key, by_position, alone):
        bins = (numbers * 16).astype(int)
        assert abs(surprise(np.bincount(bins, minlength=16), np.ones(16))) < SUSPICIOUS
        pairs = bins[:-1:2] * 16 + bins[1::2]
        assert abs(surprise(np.bincount(pairs, minlength=256), np.ones(256))) < SUSPICIOUS


def test_mixing_is_splitmix64() -> None:
    """The first outputs of the reference implementation from the seed 1234567 (prng.di.unimi.it/splitmix64.c)."""
    with np.errstate(over="ignore"):
        states = np.uint64(1234567) + np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        assert mixed(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


# Truncation


def allowed(probabilities: NDArray[np.float64], truncation: Truncation) -> set[int]:
    """By the definitions, in vLLM's order: min-p, then top-k, then top-p over what is left."""
    keep = [i for i in np.argsort(-probabilities) if probabilities[i] >= truncation.min_p * probabilities.max()]
    if truncation.top_k:
        keep = keep[: truncation.top_k]
    total, mass, nucleus = sum(probabilities[i] for i in keep), 0.0, []
    for index in keep:
        nucleus.append(int(index))
        mass += probabilities[index] / total
        if mass >= truncation.top_p:
            break
    return set(nucleus)


@settings(max_examples=200, derandomize=True)
@given(
    order=st.permutations(range(12)),
    truncation=st.builds(
        Truncation,
        top_p=st.sampled_from([0.05, 0.31, 0.62, 0.93, 1.0]),
        top_k=st.sampled_from([0, 1, 3, 11, 12, 50]),
        min_p=st.sampled_from([0.0, 0.03, 0.27, 1.0]),
    ),
)
def test_truncation_leaves_what_the_definitions_leave(order: list[int], truncation: Truncation) -> None:
    logits = (np.array([order, order[::-1]]) * 0.45).astype(np.float32)  # no ties
    given = torch.tensor(logits)
    left = truncation.apply(given).numpy()
    assert (given.numpy() == logits).all()
    for before, after in zip(logits, left, strict=True):
        probabilities = np.exp(before.astype(np.float64))
        probabilities /= probabilities.sum()
        assert set(np.flatnonzero(np.isfinite(after)).tolist()) == allowed(probabilities, truncation)
        np.testing.assert_array_equal(after[np.isfinite(after)], before[np.isfinite(after)])
