import numpy as np
import pytest

from generation.groups import Completion, Group
from rewards.prompts import EXAMPLE_PROMPT, Outcome, Verdict
from trainer.metrics import of_groups, of_step
from trainer.scored import ScoredGroup


def scored(*samples: tuple[str, int, Outcome]) -> ScoredGroup:
    """samples: (text, count, outcome); a right one earns 1, others nothing."""
    completions = tuple(
        Completion(np.array([token], np.int32), text, np.array([-1.0], np.float32), "stop", count)
        for token, (text, count, _) in enumerate(samples)
    )
    verdicts = tuple(Verdict(float(outcome == "correct"), outcome) for *_, outcome in samples)
    return ScoredGroup(Group(EXAMPLE_PROMPT, completions, 1.0, 0), verdicts)


RIGHT = scored(("5", 4, "correct"))
RESCUED = scored(("6", 8, "wrong"), ("7", 6, "wrong"), ("?", 2, "malformed"))
"""Four times as many samples as `RIGHT` has."""


def test_a_group_that_was_sampled_more_often_weighs_no_more() -> None:
    step = of_step(1, [RIGHT, RESCUED], ["solved", "learning"], 1, 0, 1, None, None, [0, 1, 2, 3, 4], 0, 1, 0.0)
    assert (step.reward_mean, step.reward_std) == pytest.approx((0.5, 0.5))
    assert (step.correct, step.malformed, step.truncated) == pytest.approx((0.5, 1 / 16, 0.0))
    assert (step.completions, step.distinct_completions) == (20, 4)


def test_shares_are_means_over_groups() -> None:
    shares = of_groups([RIGHT, RESCUED])
    assert (shares.distinct, shares.wrong) == pytest.approx(((1 / 4 + 3 / 16) / 2, 7 / 16))
