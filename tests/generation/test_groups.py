"""Groups and the prefix trees of their completions."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from generation.groups import EXAMPLE_GROUP, Completion, Group, tree_nodes
from rewards.prompts import EXAMPLE_PROMPT


@given(st.lists(st.lists(st.integers(0, 2), max_size=5), max_size=8))
def test_tree_nodes_are_distinct_prefixes(sequences: list[list[int]]) -> None:
    assert tree_nodes(sequences) == len({tuple(s[:end]) for s in sequences for end in range(1, len(s) + 1)})


@given(st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=4), max_size=6))
def test_a_pickled_group_is_the_same(token_ids: list[list[int]]) -> None:
    made = [
        Completion(
            np.array(tokens, np.int32),
            f"é{index}",
            np.linspace(-9.0, -0.1, len(tokens), dtype=np.float32),
            "stop" if index % 2 else "length",
            index + 1,
        )
        for index, tokens in enumerate(token_ids)
    ]
    group = Group(EXAMPLE_PROMPT, tuple(made), 0.7, 3)
    again = pickle.loads(pickle.dumps(group))
    assert (again.prompt, again.temperature, again.policy_version) == (EXAMPLE_PROMPT, 0.7, 3)
    assert len(again.completions) == len(made)
    for one, other in zip(made, again.completions, strict=True):
        assert (one.text, one.finish_reason, one.count) == (other.text, other.finish_reason, other.count)
        for name in ("token_ids", "logprobs"):
            before, after = getattr(one, name), getattr(other, name)
            assert before.dtype == after.dtype and before.tobytes() == after.tobytes()
            assert after.flags.owndata  # or one that is kept would keep the whole group's memory


@pytest.mark.parametrize("completions", [1, 200])
def test_a_group_is_shipped_as_three_arrays_however_many_completions_it_has(completions: int) -> None:
    many = Group(EXAMPLE_PROMPT, EXAMPLE_GROUP.completions[:1] * completions, 1.0, 0)
    arrays: list[pickle.PickleBuffer] = []
    pickle.dumps(many, protocol=5, buffer_callback=arrays.append)
    assert len(arrays) == 3
