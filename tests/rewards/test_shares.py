from itertools import chain, count, islice

from hypothesis import given
from hypothesis import strategies as st

from rewards import shares


@given(st.integers(0, 500))
def test_every_question_is_of_one_share_and_sizes_are_right(total: int) -> None:
    taken = [list(shares.take(range(total), share)) for share in shares.PLACES]
    assert sorted(chain(*taken)) == list(range(total))
    assert [len(questions) for questions in taken] == [shares.size(total, share) for share in shares.PLACES]


def test_no_question_is_made_before_it_is_asked_for() -> None:
    assert list(islice(shares.take(count(), "test"), 7)) == [20, 21, 22, 23, 24, 25, 70]


def test_the_smallest_task_that_is_shared_out_has_all_shares() -> None:
    assert {share: shares.size(shares.BLOCK, share) for share in shares.PLACES} == {
        "train": 40,
        "examples": 4,
        "test": 6,
    }
