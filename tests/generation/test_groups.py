"""Groups and the prefix trees of their completions."""

from hypothesis import given
from hypothesis import strategies as st

from generation.groups import tree_nodes


@given(st.lists(st.lists(st.integers(0, 2), max_size=5), max_size=8))
def test_tree_nodes_are_distinct_prefixes(sequences: list[list[int]]) -> None:
    assert tree_nodes(sequences) == len({tuple(s[:end]) for s in sequences for end in range(1, len(s) + 1)})
