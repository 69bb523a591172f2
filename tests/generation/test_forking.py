"""The parts of sampling and of weight sync that need no engine."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from generation.buckets import pack, unpack
from generation.checksum import MODULUS, checksum, term
from generation.engine import distinct, seed_of
from generation.forking import Branch, Draw, Truncation, draw
from generation.groups import Completion
from generation.handover import PartialBlock
from tests.statistics import SUSPICIOUS, surprise

# Drawing


def draw_one(weights: Sequence[float], uniforms: NDArray[np.float64]) -> Draw:
    """One row of a draw, between two rows of other lengths."""
    logits = torch.tensor(np.log(np.maximum(weights, 1e-300)), dtype=torch.float64).where(
        torch.tensor(weights) > 0, -torch.inf
    )
    rows = torch.stack([logits.flip(0), logits, torch.zeros_like(logits)])
    others = np.linspace(0, 0.9, 3), np.linspace(0, 0.9, 7)
    return draw(rows, [1.0, 1.0, 0.5], Truncation(), [others[0], uniforms, others[1]])[1]


@pytest.mark.parametrize("count", [1, 2, 256])
def test_draws_follow_the_weights(count: int) -> None:
    weights = [0.0, 5.0, 1.0, 0.0, 0.01, 2.0, 0.5, 1e-4, 0.0]
    rows, rng = 20_000 // count, np.random.default_rng(0)
    logits = torch.tensor(weights).log().repeat(rows, 1)
    total = np.zeros(len(weights))
    for drawn in draw(logits, [1.0] * rows, Truncation(), [*rng.random((rows, count))]):
        total[drawn.token_ids] += drawn.counts
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
    count=st.integers(1, 300),
    seed=st.integers(0, 2**32),
)
def test_a_draw_is_distinct_indices_of_weight_most_frequent_first(
    weights: list[float], count: int, seed: int
) -> None:
    drawn = draw_one(weights, np.random.default_rng(seed).random(count))
    assert drawn.counts.sum() == count
    assert (drawn.counts > 0).all()
    assert (np.diff(drawn.counts) <= 0).all()
    assert len(set(drawn.token_ids.tolist())) == len(drawn.token_ids)
    assert all(weights[token] > 0 for token in drawn.token_ids)
    expected = np.log(np.array(weights)[drawn.token_ids] / sum(weights))
    np.testing.assert_allclose(drawn.logprobs, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("at", [0.0, np.nextafter(1.0, 0.0)])
@pytest.mark.parametrize("scale", [1.0, 0.1, 3e7, 1e-8])
def test_the_ends_of_the_random_numbers_hit_no_weightless_token(at: float, scale: float) -> None:
    drawn = draw_one([0.0, 0.3 * scale, 0.7 * scale, 0.0], np.array([at]))
    assert drawn.token_ids.tolist() == ([1] if at == 0.0 else [2])


@pytest.mark.parametrize("temperature", [0.5, 1.7])
def test_rows_have_temperatures_of_their_own(temperature: float) -> None:
    logits, uniforms = torch.randn(2, 9), np.random.default_rng(0).random((2, 40))
    both = draw(logits, [1.0, temperature], Truncation(top_k=7), [*uniforms])
    for row, (alone, divisor) in enumerate([(both[0], 1.0), (both[1], temperature)]):
        (again,) = draw(logits[row : row + 1] / divisor, [1.0], Truncation(top_k=7), [uniforms[row]])
        assert alone.token_ids.tolist() == again.token_ids.tolist()
        assert alone.counts.tolist() == again.counts.tolist()
        np.testing.assert_allclose(alone.logprobs, again.logprobs, atol=1e-6)


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


# Branches

LOGITS = torch.tensor([0.0, 2.0, 1.0, -torch.inf, 0.5])


def branch(**changes: Any) -> Branch:
    fields: dict[str, Any] = {
        "index": 3,
        "temperature": 1.0,
        "seed": 7,
        "truncation": Truncation(),
        "count": 100,
        "token_ids": [],
        "logprobs": [],
        "inherited": None,
    }
    return Branch(**fields | changes)


def split(some: Branch, generated: int = 0, copy: Callable[[], PartialBlock | None] = lambda: None) -> int:
    (drawn,) = draw(LOGITS[None], [some.temperature], some.truncation, [some.uniforms(generated)])
    return some.split_by(drawn, generated, copy)


def test_a_branch_splits_its_count() -> None:
    parent = branch()
    token = split(parent)
    children = parent.advance([token])
    assert token == 1  # the most frequent of 100
    assert sorted(child.token_ids for child in [parent, *children]) == [[0], [1], [2], [4]]
    counts = [child.count for child in [parent, *children]]
    assert sum(counts) == 100
    assert counts == sorted(counts, reverse=True)
    expected = LOGITS.log_softmax(-1)
    for child in [parent, *children]:
        assert child.index == 3
        assert child.logprobs == pytest.approx([expected[child.token_ids[0]].item()], abs=1e-6)


def test_draws_depend_on_seed_and_prefix_only() -> None:
    def drawn(**changes: Any) -> list[tuple[list[int], int]]:
        some = branch(**changes)
        children = some.advance([split(some)])
        return sorted((child.token_ids[-1:], child.count) for child in [some, *children])

    assert drawn() == drawn() == drawn(index=0, logprobs=[])
    assert drawn() != drawn(seed=8)
    assert drawn(token_ids=[1, 2], logprobs=[0.0, 0.0]) != drawn(token_ids=[2, 1], logprobs=[0.0, 0.0])


def test_a_repeated_draw_is_the_same_draw() -> None:
    some = branch()
    first, before = split(some), some.split
    again = split(some)
    assert first == again
    assert before is not None and some.split is not None
    assert before.draw.counts.tolist() == some.split.draw.counts.tolist()


def test_greedy_takes_the_likeliest_for_all() -> None:
    some = branch(temperature=0.0, truncation=Truncation(top_p=0.5))
    assert split(some, copy=lambda: pytest.fail("nothing goes on elsewhere")) == 1
    assert some.advance([1]) == []
    assert (some.count, some.token_ids) == (100, [1])
    assert some.logprobs == pytest.approx([LOGITS.log_softmax(-1)[1].item()], abs=1e-6)


@pytest.mark.parametrize("followed", [[2], [], [1, 1]])
def test_vllm_following_another_token_is_an_error(followed: list[int]) -> None:
    some = branch()
    split(some)
    with pytest.raises(RuntimeError, match=r"vLLM generated .* at position 0 .* Set engine\.fork to off"):
        some.advance(followed)


def test_a_step_without_a_draw_is_an_error() -> None:
    some = branch()
    with pytest.raises(RuntimeError, match="where None was drawn"):
        some.advance([1])
    some.advance([split(some)])
    with pytest.raises(RuntimeError, match="where None was drawn"):
        some.advance([1])


def test_a_draw_of_an_earlier_position_is_an_error() -> None:
    some = branch()
    some.advance([split(some)])
    token = split(some)
    with pytest.raises(RuntimeError, match="at position 1"):
        some.advance([token])


# Merging


def completion(tokens: Sequence[int], count: int, finish: Any = "stop") -> Completion:
    return Completion(np.array(tokens, np.int32), str(tokens), np.zeros(len(tokens), np.float32), finish, count)


def test_equal_completions_are_merged_most_frequent_first() -> None:
    merged = distinct(
        [
            completion([5], 2),
            completion([1, 2], 3),
            completion([5], 4),
            completion([5], 1, "length"),
            completion([1], 1),
            completion([0], 3),
        ]
    )
    assert [(c.token_ids.tolist(), c.finish_reason, c.count) for c in merged] == [
        ([5], "stop", 6),
        ([0], "stop", 3),
        ([1, 2], "stop", 3),
        ([1], "stop", 1),
        ([5], "length", 1),
    ]
    assert distinct([]) == ()


def test_seeds_are_63_bits_and_differ_with_every_part() -> None:
    seeds = {seed_of(0, step, name) for step in range(50) for name in ("a", "b", "1")}
    assert len(seeds) == 150
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of(0, "x") == seed_of(0, "x")


# Buckets and checksums

Weights = list[tuple[str, torch.Tensor]]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]


@st.composite
def weights(draw: st.DrawFn) -> Weights:
    """Tensors of any dtype with odd sizes, some without dimensions, some not contiguous."""
    found = []
    for index in range(draw(st.integers(0, 5))):
        shape = draw(st.lists(st.integers(1, 5), max_size=3))
        generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
        tensor = torch.randint(0, 100, shape, generator=generator).to(draw(st.sampled_from(DTYPES)))
        found.append((f"layer.{index}", tensor.mT if tensor.dim() > 1 and draw(st.booleans()) else tensor))
    return found


@settings(max_examples=150, derandomize=True)
@given(some=weights(), bucket_bytes=st.sampled_from([1, 10, 64, 100, 10_000]))
def test_weights_come_out_of_buckets_as_they_went_in(some: Weights, bucket_bytes: int) -> None:
    buckets = list(pack(some, bucket_bytes))
    for array in (array for data, _ in buckets for array in data):
        array.flags.writeable = False  # as Ray's object store gives it
    out = [weight for data, layout in buckets for weight in unpack(data, layout)]
    assert [name for name, _ in out] == [name for name, _ in some]
    for (_, left), (_, right) in zip(out, some, strict=True):
        assert left.dtype == right.dtype
        assert torch.equal(left, right)
    for _, layout in buckets:
        sizes = [dict(some)[name].nbytes for name, _, _ in layout]
        assert len(sizes) == 1 or sum(sizes) <= bucket_bytes
    assert checksum(out) == checksum(some)


@settings(max_examples=150, derandomize=True)
@given(some=weights(), data=st.data())
def test_a_checksum_sees_names_and_values_and_not_the_order(some: Weights, data: st.DataObject) -> None:
    whole = checksum(some)
    assert 0 <= whole < MODULUS
    assert checksum(data.draw(st.permutations(some))) == whole
    assert sum(term(name, weight) for name, weight in some) % MODULUS == whole
    if not some:
        return
    index = data.draw(st.integers(0, len(some) - 1))
    name, weight = some[index]
    assert checksum([*some[:index], *some[index + 1 :]]) != whole  # also a weight of zeros
    assert checksum([*some[:index], (name + "x", weight), *some[index + 1 :]]) != whole
    other = weight.clone(memory_format=torch.contiguous_format)
    at = data.draw(st.integers(0, weight.numel() - 1))
    other.view(-1)[at] = ~other.view(-1)[at] if weight.dtype == torch.bool else other.view(-1)[at] + 1
    assert checksum([*some[:index], (name, other), *some[index + 1 :]]) != whole


def test_a_checksum_reads_slices_that_are_not_aligned() -> None:
    whole = torch.arange(40, dtype=torch.uint8)
    for start in range(9):
        part = whole[start : start + 16]
        assert term("w", part) == term("w", part.clone())


def test_exchanged_weights_change_the_checksum() -> None:
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    assert checksum([("a", a), ("b", b)]) != checksum([("a", b), ("b", a)])


def test_replacing_a_completion_leaves_the_merged_one_alone() -> None:
    some = completion([1], 2)
    merged = distinct([some, replace(some, count=5)])
    assert [c.count for c in merged] == [7]
    assert some.count == 2
