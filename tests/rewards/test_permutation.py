import random
import time
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from rewards.permutation import permutation


@given(count=st.integers(0, 300), seed=st.integers(0, 2**32 - 1))
def test_it_draws_what_the_standard_library_does(count: int, seed: int) -> None:
    assert list(permutation(count, random.Random(seed))) == random.Random(seed).sample(range(count), count)


def test_the_first_of_many_cost_little_and_do_not_repeat() -> None:
    begun = time.process_time()
    drawn = list(islice(permutation(10**30, random.Random(0)), 10_000))
    assert len(set(drawn)) == 10_000 and all(0 <= number < 10**30 for number in drawn)
    assert time.process_time() - begun < 5
