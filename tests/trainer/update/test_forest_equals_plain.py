"""Forests are those of the plain code, to the bit, and take time in proportion to what they hold."""

import dataclasses
import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.equivalence.dense import make_lesson
from tests.trainer.update import plain_forest
from trainer.signal.advantages import Lesson
from trainer.update.forest import Batch, Forest, pack


def assert_same(left: Batch, right: Batch) -> None:
    for field in ("num_samples", "num_tokens", "tree_tokens", "dense_tokens"):
        assert getattr(left, field) == getattr(right, field), field
    assert [len(rank) for rank in left.forests] == [len(rank) for rank in right.forests]
    for forest, other in zip(sum(left.forests, ()), sum(right.forests, ()), strict=True):
        for name in (field.name for field in dataclasses.fields(Forest)):
            a, b = getattr(forest, name), getattr(other, name)
            assert (a.dtype, a.shape) == (b.dtype, b.shape), name
            assert a.tobytes() == b.tobytes(), (name, a, b)  # NaN too


BEGINNINGS: tuple[list[int], ...] = ([], [0], [0, 1], [0, 1, 300, 70_000], [0, 1, 300, 70_000, 1, 2])
"""Of prompts. Some tokens take more than one byte."""


@st.composite
def lessons(draw: st.DrawFn) -> list[Lesson]:
    """Prompts that share beginnings or are the same; completions that are prefixes of others or the same; some not in
    the loss, some with tokens that were replayed (NaN)."""
    token = st.sampled_from([0, 1, 256])
    some = draw(
        st.lists(
            st.builds(
                make_lesson,
                prompt=st.builds(list.__add__, st.sampled_from(BEGINNINGS), st.lists(token, min_size=1, max_size=4)),
                completions=st.lists(
                    st.tuples(
                        st.lists(token, min_size=1, max_size=8), st.integers(1, 4), st.sampled_from([-1.0, 0.25, 1.0])
                    ),
                    min_size=2,
                    max_size=9,
                ),
                temperature=st.sampled_from([0.6, 1.0, 1.7]),
            ),
            min_size=1,
            max_size=9,
        )
    )
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    return [_scattered(lesson, random) for lesson in some]


def _scattered(lesson: Lesson, random: np.random.Generator) -> Lesson:
    """The lesson with other log-probabilities, some NaN, some completions out of the loss, and some thinned out."""
    group = lesson.scored.group
    completions = []
    for completion in group.completions:
        logprobs = random.normal(size=len(completion.token_ids)).astype(np.float32)
        logprobs[random.random(len(logprobs)) < 0.2] = np.nan
        completions.append(dataclasses.replace(completion, logprobs=logprobs))
    in_loss = random.random(len(completions)) < random.choice([0.3, 0.8, 1.0])
    in_loss[random.integers(len(in_loss))] = True
    scored = dataclasses.replace(lesson.scored, group=dataclasses.replace(group, completions=tuple(completions)))
    weights = in_loss * group.counts * random.choice([1.0, 1.0, 0.0, 2.5], len(in_loss))
    weights[np.flatnonzero(in_loss)[0]] = 1.5
    return dataclasses.replace(lesson, scored=scored, in_loss=in_loss, weights=weights)


@settings(max_examples=150, derandomize=True)
@given(some=lessons(), ranks=st.integers(1, 4), micro_batch_tokens=st.integers(1, 60), chunk=st.sampled_from([1, 50]))
def test_the_same_batch(some: list[Lesson], ranks: int, micro_batch_tokens: int, chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.update.parts.CHUNK_TOKENS", chunk)
        batch = pack(some, ranks, micro_batch_tokens)
    assert_same(batch, plain_forest.pack(some, ranks, micro_batch_tokens))


def test_the_same_batch_of_other_arrays() -> None:
    """Wider numbers than the record says, and arrays that are views with gaps."""
    lesson = make_lesson([1, 2], [([7, 300, 2], 1, 0.0), ([7, 70_000], 2, 1.0), ([7], 1, 0.5)])
    group = lesson.scored.group
    for other in (lambda array: array.astype(f"{array.dtype.kind}8"), lambda array: np.repeat(array, 2)[::2]):
        completions = tuple(
            dataclasses.replace(
                completion, token_ids=other(completion.token_ids), logprobs=other(completion.logprobs)
            )
            for completion in group.completions
        )
        scored = dataclasses.replace(lesson.scored, group=dataclasses.replace(group, completions=completions))
        some = [dataclasses.replace(lesson, scored=scored)]
        assert_same(pack(some, 1, 100), plain_forest.pack(some, 1, 100))


def chains(nodes: Sequence[int], prompts: Sequence[Sequence[int]]) -> list[Lesson]:
    """Groups whose trees are one path of so many nodes after their prompt's beginning."""
    return [
        make_lesson(prompt, [([number] * size, 1, 0.0)])
        for number, (size, prompt) in enumerate(zip(nodes, prompts, strict=True), start=1)
    ]


@settings(max_examples=100, derandomize=True)
@given(
    nodes=st.lists(st.integers(1, 30), min_size=1, max_size=40),
    most=st.sampled_from([3, 12, 30]),
    prompt=st.sampled_from([1, 2, 30]),
    ranks=st.integers(1, 3),
    micro_batch_tokens=st.integers(20, 50),
)
def test_the_same_bins(nodes: list[int], most: int, prompt: int, ranks: int, micro_batch_tokens: int) -> None:
    """Of sizes for which bins stay half empty, too, where the first number of bins to be tried matters."""
    sizes = [min(size, most) for size in nodes]
    some = chains(sizes, [[*range(5), index % prompt, 0, index] for index in range(len(sizes))])
    assert_same(pack(some, ranks, micro_batch_tokens), plain_forest.pack(some, ranks, micro_batch_tokens))


@pytest.mark.parametrize("nodes", [60, 40, 3])
def test_time_grows_with_the_number_of_groups(nodes: int) -> None:
    """In bins of 100 nodes: one group in each, two, or many."""

    def seconds(groups: int) -> float:
        some = chains([nodes] * groups, [[1, 2, 3, index] for index in range(groups)])
        taken = []
        for _ in range(3):
            start = time.process_time()
            pack(some, 1, 100)
            taken.append(time.process_time() - start)
        return min(taken)

    assert seconds(1600) < 2 * 8 * seconds(200)  # by the square it would be 64 times as long
