from collections.abc import Sequence
from dataclasses import replace

import pytest

from configs.schema import WithoutBest
from rewards.prompts import Verdict
from tests.scored import scored
from trainer.scored import EXAMPLE_SCORED_GROUP, ScoredGroup
from trainer.signal.kinds import Kind, can_spread, classify, narrow, needs_spread, teaches

BEST = 1.0
Samples = Sequence[tuple[str, int, float]]
MIXED, LEAST_WRONG = [("No", 127, -0.5), ("Yes", 1, 1.0)], [("No", 127, -0.5), ("?", 1, -1.0)]


@pytest.mark.parametrize(
    ("samples", "kind"),
    [
        ([("Yes", 1, 1.0), ("No", 127, -0.5)], "learning"),
        ([("Yes", 128, 1.0)], "solved"),
        ([("Yes", 100, 1.0), ("yes", 28, 1.0)], "solved"),
        ([("Yes", 100, 1.0), ("yes", 28, 1.0 - 1e-9)], "solved"),
        ([("No", 128, -0.5)], "collapsed"),
        ([("No", 90, -0.5), ("no", 10, -0.5)], "collapsed"),
        ([("No", 89, -0.5), ("no", 11, -0.5)], "floor"),
        (
            [("No", 50, -0.5), ("no", 10, -0.5), ("No", 40, -0.5)],
            "collapsed",
        ),  # one text in two tokenizations
        ([(str(text), 1, -1.0) for text in range(128)], "floor"),
    ],
)
def test_kind(samples: list[tuple[str, int, float]], kind: Kind) -> None:
    assert classify(scored(*samples), BEST) == kind


def test_the_example_is_learning() -> None:
    assert classify(EXAMPLE_SCORED_GROUP, BEST) == "learning"


def test_best_is_the_tasks_best() -> None:
    assert classify(scored(("Yes", 128, 1.0), best=2.0), best_reward=2.0) == "collapsed"


@pytest.mark.parametrize(
    ("samples", "temperature", "mode", "taught"),
    [
        (MIXED, 1.0, "spread", True),
        (MIXED, 1.4, "skip", True),
        (MIXED, 1.4, "train", True),
        (LEAST_WRONG, 1.0, "spread", False),
        (LEAST_WRONG, 1.0, "skip", False),
        (LEAST_WRONG, 1.0, "train", True),
        (LEAST_WRONG, 1.4, "train", False),
    ],
)
def test_what_teaches(samples: Samples, temperature: float, mode: WithoutBest, taught: bool) -> None:
    group = scored(*samples, temperature=temperature)
    assert teaches(group, "learning", BEST, mode, base_temperature=1.0) is taught
    for kind in ("solved", "collapsed", "floor"):
        assert not teaches(group, kind, BEST, mode, base_temperature=1.0)


def test_a_right_answer_punished_for_its_length_is_still_right() -> None:
    overlong = scored(("Yes", 128, 0.5))
    overlong = replace(overlong, verdicts=(Verdict(0.5, "correct"),))
    assert classify(overlong, BEST) == "solved"


def spreads(samples: ScoredGroup, kind: Kind, mode: WithoutBest, misses: int) -> bool:
    return can_spread(samples, kind, BEST, mode) and needs_spread(samples, misses)


@pytest.mark.parametrize(
    ("samples", "kind", "mode", "spreading"),
    [
        ([("11", 100, -0.5), ("12", 28, -0.1)], "learning", "spread", True),
        ([("11", 64, -0.5), ("12", 64, -0.5)], "floor", "spread", True),
        ([("11", 63, -0.5), ("12", 60, -0.5), ("13", 5, -0.5)], "floor", "spread", False),  # none crowds
        (
            [("11", 33, -0.5), ("12", 63, -0.5), ("Hm", 32, -1.0)],
            "learning",
            "spread",
            True,
        ),  # a quarter is no answer
        ([("11", 100, -0.5), ("12", 28, -0.1)], "learning", "skip", False),
        ([("11", 100, -0.5), ("12", 28, -0.1)], "learning", "train", False),
        ([("11", 100, -0.5), ("12", 20, -0.1), ("91", 8, 1.0)], "learning", "spread", False),
        ([("11", 128, -0.5)], "collapsed", "spread", False),
        ([("No", 100, -0.5), ("no.", 28, -0.5)], "floor", "spread", False),  # one answer
        ([("No", 100, -0.5), ("Well", 28, -1.0)], "learning", "spread", False),  # one answer, and what is none
        ([("Well", 100, -1.0), ("Hm", 28, -1.0)], "floor", "spread", False),
    ],
)
def test_what_spreads(samples: Samples, kind: Kind, mode: WithoutBest, spreading: bool) -> None:
    assert spreads(scored(*samples), kind, mode, misses=0) is spreading


def test_a_group_that_missed_too_often_spreads() -> None:
    uneven = scored(("0", 44, -0.5), *((str(number), 4, -0.5) for number in range(1, 22)))
    assert not spreads(uneven, "floor", "spread", misses=2)
    assert spreads(uneven, "floor", "spread", misses=3)
    assert not spreads(uneven, "floor", "skip", misses=3)


def test_a_group_that_is_spread_already_is_left_alone() -> None:
    """However often it missed: its gradient would be noise, which Adam makes whole steps of."""
    wide = scored(*((str(number), 4, -0.5) for number in range(32)))
    assert not spreads(wide, "floor", "spread", misses=30)


FEW = [("111", 86, -0.5), ("110", 69, -0.4), ("1101", 56, -0.2), ("1100", 45, -0.3)]
MANY = [("111", 100, -0.5), *((str(number), 1, -0.4) for number in range(28))]


@pytest.mark.parametrize(
    ("samples", "is_narrow"),
    [
        (FEW, True),
        ([*FEW[:3], ("1011", 45, 1.0)], False),
        (MANY, False),
        ([(f"Well {number}", 1, -1.0) for number in range(128)], False),
        ([("No", 128, -0.5)], True),
        ([("Yes", 128, 1.0)], False),
        ([("Well", 128, -1.0)], True),
    ],
)
def test_narrow(samples: Samples, is_narrow: bool) -> None:
    group = scored(*samples)
    assert narrow(group, classify(group, BEST), BEST) is is_narrow
