from collections.abc import Sequence

import numpy as np
import pytest

from generation.groups import Completion, Group
from rewards.prompts import EXAMPLE_PROMPT
from trainer.diagnosis.drift import PROMPTS, Drift

NUMBER = 4


def group(*completions: tuple[Sequence[int], Sequence[float], int]) -> Group:
    """Token ids, log-probabilities and count of each."""
    made = (
        Completion(np.array(ids, np.int32), str(ids), np.array(logprobs, np.float32), "stop", count)
        for ids, logprobs, count in completions
    )
    return Group(EXAMPLE_PROMPT, tuple(made), temperature=1.0, policy_version=0)


FIRST = group(([5, 2], [-0.5, -0.1], 3), ([6, 2], [-1.5, -0.1], 1))
SEEN = Drift().after([NUMBER], [FIRST])


def test_nothing_is_known_before_the_first_rollout() -> None:
    assert Drift().of(NUMBER, FIRST) is None


def test_the_same_policy_has_not_moved() -> None:
    assert SEEN.of(NUMBER, FIRST) == pytest.approx(0, abs=1e-6)


def test_drift_is_the_mean_over_distinct_completions() -> None:
    now = group(([5, 2], [-0.1, -0.1], 3), ([6, 2], [-2.0, -0.2], 1))
    assert SEEN.of(NUMBER, now) == pytest.approx((0.4 + 0.6) / 2)


def test_completions_are_compared_as_far_as_they_begin_alike() -> None:
    longer = group(([5, 7, 7, 7], [-0.7, -9.0, -9.0, -9.0], 4))
    assert SEEN.of(NUMBER, longer) == pytest.approx(0.2)
    assert SEEN.of(NUMBER, group(([8, 2], [-0.1, -0.1], 4))) is None


def test_only_the_first_rollout_is_remembered() -> None:
    later = group(([5, 2], [-0.1, -0.1], 4))
    assert SEEN.after([NUMBER], [later]).of(NUMBER, later) == pytest.approx(0.4)


def test_of_many_prompts_the_first_are_remembered() -> None:
    many = Drift().after(range(PROMPTS - 1), [FIRST] * (PROMPTS - 1)).after([900, 901], [FIRST, FIRST])
    assert len(many.first) == PROMPTS and 900 in many.first and 901 not in many.first
