"""The layout of token trees, and how groups are shared out."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.equivalence.dense import SAMPLED, lessons, make_lesson
from trainer.signal.advantages import EXAMPLE_LESSON, Lesson
from trainer.update.forest import EMPTY_FOREST, EXAMPLE_FOREST, Batch, Forest, pack

Read = tuple[tuple[int, ...], tuple[int, ...], float, int, float]
"""What a completion reads in its forest: prompt, tokens, temperature, count, advantage."""


def only(batch: Batch) -> Forest:
    ((forest,),) = batch.forests
    return forest


def assert_same(left: Forest, right: Forest) -> None:
    for field in dataclasses.fields(Forest):
        a, b = getattr(left, field.name), getattr(right, field.name)
        assert a.dtype == b.dtype, field.name
        np.testing.assert_array_equal(a, b, err_msg=field.name)


def paths(forest: Forest) -> list[list[int]]:
    """The tokens that every node sees, itself last: its ancestors."""
    node = np.arange(len(forest.token_ids))
    seen = (node <= node[:, None]) & (node[:, None] < forest.subtree_end)
    return [forest.token_ids[row].tolist() for row in seen]


def sequences(batch: Batch) -> list[Read]:
    found = []
    for forest in (forest for rank in batch.forests for forest in rank):
        node_paths = paths(forest)
        for edges, mask, logprobs, count, advantage in zip(
            forest.completion_edges,
            forest.mask,
            forest.sampler_logprobs,
            forest.weights,
            forest.advantages,
            strict=True,
        ):
            parents = forest.parents[forest.edge_parent[edges[mask]]]
            tokens = forest.edge_token[edges[mask]].tolist()
            prompt = node_paths[parents[0]]
            for position, parent in enumerate(parents):
                assert node_paths[parent] == prompt + tokens[:position]
                assert forest.position_ids[parent] == len(prompt) + position - 1
            (temperature,) = set(forest.parent_temperature[forest.edge_parent[edges[mask]]].tolist())
            assert (logprobs == np.where(mask, SAMPLED, 0)).all()
            found.append((tuple(prompt), tuple(tokens), temperature, int(count), float(advantage)))
    return sorted(found)


def expected(some: list[Lesson]) -> list[Read]:
    return sorted(
        (
            lesson.scored.group.prompt.token_ids,
            tuple(completion.token_ids.tolist()),
            float(np.float32(lesson.scored.group.temperature)),
            completion.count,
            float(np.float32(advantage)),
        )
        for lesson in some
        for completion, advantage in zip(lesson.scored.group.completions, lesson.advantages, strict=True)
    )


def test_the_example() -> None:
    batch = pack([EXAMPLE_LESSON], ranks=1, micro_batch_tokens=100)
    assert_same(only(batch), EXAMPLE_FOREST)
    assert (batch.num_samples, batch.num_tokens) == (128, 128 * 2)
    assert (batch.tree_tokens, batch.dense_tokens) == (7, 128 * 7)


def test_prompts_share_what_they_have_in_common_but_the_last_token() -> None:
    some = [
        make_lesson([1, 2, 3], [([7, 8], 1, 0.0), ([7, 9], 1, 1.0)]),
        make_lesson([1, 2, 3], [([7, 8], 1, 0.0), ([9], 1, 1.0)], temperature=1.4),  # the same prompt
        make_lesson([1, 2], [([3, 7], 2, 0.0), ([3, 7, 8], 1, 1.0)]),  # a prefix of it; goes on like it
    ]
    forest = only(pack(some, 1, 100))
    assert forest.token_ids.tolist() == [1, 2, 3, 7, 2, 3, 7, 3, 7]
    assert forest.position_ids.tolist() == [0, 1, 2, 3, 1, 2, 3, 2, 3]
    assert forest.subtree_end.tolist() == [9, 4, 4, 4, 9, 7, 7, 9, 9]
    assert forest.parents.tolist() == [1, 2, 3, 5, 6, 7, 8]
    np.testing.assert_allclose(forest.parent_temperature, [1, 1, 1, 1, 1, 1.4, 1.4])


def test_only_edges_and_no_leaves() -> None:
    forest = only(pack([make_lesson([1], [([2], 9, 0.0), ([3], 1, 1.0)])], 1, 100))
    assert forest.token_ids.tolist() == [1]
    assert forest.edge_token.tolist() == [2, 3]


@settings(max_examples=150, derandomize=True)
@given(some=lessons(), ranks=st.integers(1, 4), micro_batch_tokens=st.integers(1, 40))
def test_every_completion_is_in_one_forest_and_reads_its_own_path(
    some: list[Lesson], ranks: int, micro_batch_tokens: int
) -> None:
    batch = pack(some, ranks, micro_batch_tokens)
    assert sequences(batch) == expected(some)
    assert batch.num_samples == sum(lesson.scored.group.num_generations for lesson in some)
    assert batch.num_tokens == sum(len(tokens) * count for _, tokens, _, count, _ in expected(some))

    assert len(batch.forests) == ranks
    assert len({len(rank) for rank in batch.forests}) == 1
    longest = max(len(prompt) + len(tokens) - 1 for prompt, tokens, *_ in expected(some))
    for forest in (forest for rank in batch.forests for forest in rank):
        assert len(forest.token_ids) <= max(micro_batch_tokens, longest)
        assert len(set(zip(forest.edge_parent.tolist(), forest.edge_token.tolist(), strict=True))) == len(
            forest.edge_token
        )
        assert len(set(forest.parents.tolist())) == len(forest.parents)

    again = pack(some, ranks, micro_batch_tokens)
    for rank, other in zip(batch.forests, again.forests, strict=True):
        for forest, same in zip(rank, other, strict=True):
            assert_same(forest, same)


@settings(max_examples=50, derandomize=True)
@given(some=lessons())
def test_no_token_is_computed_twice(some: list[Lesson]) -> None:
    shared, own = set(), set()
    for number, lesson in enumerate(some):
        prompt = lesson.scored.group.prompt.token_ids
        shared |= {prompt[:end] for end in range(1, len(prompt))}
        for completion in lesson.scored.group.completions:
            tokens = tuple(completion.token_ids.tolist())
            own |= {(number, tokens[:end]) for end in range(len(tokens))}
    batch = pack(some, 1, 10_000)
    assert batch.tree_tokens == len(only(batch).token_ids) == len(shared) + len(own)


def chain(prompt: int, nodes: int) -> Lesson:
    """A group whose tree is one path of so many nodes."""
    return make_lesson([prompt], [([prompt] * nodes, 1, 0.0)])


def test_groups_are_balanced_over_ranks() -> None:
    some = [chain(prompt, nodes) for prompt, nodes in enumerate([9, 8, 7, 6, 5, 5], start=1)]
    batch = pack(some, ranks=2, micro_batch_tokens=20)
    assert sorted(len(forest.token_ids) for rank in batch.forests for forest in rank) == [20, 20]
    batch = pack(some, ranks=2, micro_batch_tokens=12)
    assert [[len(forest.token_ids) for forest in rank] for rank in batch.forests] == [[12, 8], [11, 9]]


def test_prompts_with_one_beginning_fit_into_a_forest_that_would_not_hold_them_apart() -> None:
    beginning = list(range(1, 21))
    some = [make_lesson([*beginning, 30 + n], [([7, 2], 1, 0.0), ([8, 2], 1, 1.0)]) for n in range(4)]
    assert only(pack(some, 1, 32)).token_ids.size == 20 + 4 * 3


def test_a_rank_without_work_gets_empty_forests() -> None:
    batch = pack([chain(1, 3)], ranks=3, micro_batch_tokens=10)
    assert [len(rank) for rank in batch.forests] == [1, 1, 1]
    assert_same(batch.forests[1][0], EMPTY_FOREST)
    assert batch.tree_tokens == 3


def test_a_group_that_does_not_fit_is_split_between_completions() -> None:
    lesson = make_lesson([1, 2], [([first, first, 3], 1, float(first)) for first in range(10)])
    batch = pack([lesson], ranks=1, micro_batch_tokens=8)
    assert [len(forest.token_ids) for forest in batch.forests[0]] == [8, 8, 8, 4]
    assert batch.num_samples == 10


def test_what_is_not_in_the_loss_is_in_no_forest() -> None:
    lesson = make_lesson([1, 2, 3], [([7, 8], 5, 0.0), ([9, 4, 5], 2, 1.0), ([7, 6], 1, 0.5)])
    part = dataclasses.replace(lesson, in_loss=np.array([True, False, True]), weights=np.array([5.0, 0.0, 1.0]))
    without = make_lesson([1, 2, 3], [([7, 8], 5, 0.0), ([7, 6], 1, 0.5)])
    batch, other = pack([part], 1, 100), pack([without], 1, 100)
    assert batch.num_samples == 8  # all of the group
    assert (batch.num_tokens, batch.tree_tokens, batch.dense_tokens) == (12, 4, 6 * 5)
    kept = dataclasses.replace(only(batch), advantages=only(other).advantages)
    assert_same(kept, only(other))
    np.testing.assert_allclose(only(batch).advantages, lesson.advantages[[2, 0]], rtol=1e-6)


def test_nothing_to_pack() -> None:
    with pytest.raises(ValueError, match="at least one lesson"):
        pack([], 1, 10)
    with pytest.raises(ValueError, match="no tokens"):
        pack([make_lesson([1], [([], 2, 0.0)])], 1, 10)
    with pytest.raises(ValueError, match="it is no lesson"):
        pack([dataclasses.replace(EXAMPLE_LESSON, weights=np.zeros(2))], 1, 10)


@pytest.mark.timeout(30)
def test_long_completions_that_share_nothing_are_packed_in_little_time() -> None:
    random = np.random.default_rng(0)
    many = [
        make_lesson([1, 2, 3, index], [(random.integers(50_000, size=512).tolist(), 1, n % 2) for n in range(128)])
        for index in range(16)
    ]
    batch = pack(many, ranks=1, micro_batch_tokens=4096)
    assert len(batch.forests[0]) <= -(-16 * 128 * 512 // 4096) + 16
