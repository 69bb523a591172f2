from collections.abc import Sequence

import numpy as np
import pytest

from generation.groups import Completion, Group
from rewards.prompts import EXAMPLE_PROMPT
from trainer.diagnosis.drift import FirstVisits


def group(*completions: tuple[Sequence[int], Sequence[float], int]) -> Group:
    """Token ids, log-probabilities and count of each."""
    made = (
        Completion(np.array(ids, np.int32), str(ids), np.array(logprobs, np.float32), "stop", count)
        for ids, logprobs, count in completions
    )
    return Group(EXAMPLE_PROMPT, tuple(made), temperature=1.0, policy_version=0)


FIRST = group(([5, 2], [-0.5, -0.1], 3), ([6, 2], [-1.5, -0.1], 1))


def test_nothing_is_known_before_the_first_visit() -> None:
    assert FirstVisits().shift(FIRST) is None


def test_the_same_policy_has_not_moved() -> None:
    assert FirstVisits().seen(FIRST).shift(FIRST) == pytest.approx(0, abs=1e-6)


def test_the_shift_is_the_mean_over_distinct_completions() -> None:
    now = group(([5, 2], [-0.1, -0.1], 3), ([6, 2], [-2.0, -0.2], 1))
    assert FirstVisits().seen(FIRST).shift(now) == pytest.approx((0.4 + 0.6) / 2)


def test_completions_are_compared_as_far_as_they_begin_alike() -> None:
    longer = group(([5, 7, 7, 7], [-0.7, -9.0, -9.0, -9.0], 4))
    assert FirstVisits().seen(FIRST).shift(longer) == pytest.approx(0.2)
    assert FirstVisits().seen(FIRST).shift(group(([8, 2], [-0.1, -0.1], 4))) is None


def test_only_the_first_visit_is_remembered() -> None:
    later = group(([5, 2], [-0.1, -0.1], 4))
    assert FirstVisits().seen(FIRST).seen(later).shift(later) == pytest.approx(0.4)
