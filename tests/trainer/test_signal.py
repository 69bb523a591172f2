import numpy as np
import pytest

from generation.groups import Completion, Group
from rewards.prompts import EXAMPLE_PROMPT, Verdict
from trainer.scored import EXAMPLE_SCORED_GROUP, ScoredGroup
from trainer.signal import Kind, Ladder, classify, teaches

BEST = 1.0


def scored(*samples: tuple[str, int, float], temperature: float = 1.0) -> ScoredGroup:
    """samples: (text, count, reward); every completion gets other tokens."""
    completions = tuple(
        Completion(np.array([token], np.int32), text, np.array([-1.0], np.float32), "stop", count)
        for token, (text, count, _) in enumerate(samples)
    )
    verdicts = tuple(Verdict(reward, "wrong") for *_, reward in samples)
    return ScoredGroup(Group(EXAMPLE_PROMPT, completions, temperature, 0), verdicts)


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
    assert classify(scored(("Yes", 128, 1.0)), best_reward=2.0) == "collapsed"


def test_what_teaches() -> None:
    least_wrong, mixed = [("No", 127, -0.5), ("?", 1, -1.0)], [("No", 127, -0.5), ("Yes", 1, 1.0)]
    assert teaches(scored(*least_wrong), "learning", BEST, base_temperature=1.0)
    assert not teaches(scored(*least_wrong, temperature=1.4), "learning", BEST, base_temperature=1.0)
    assert teaches(scored(*mixed, temperature=1.4), "learning", BEST, base_temperature=1.0)
    for kind in ("solved", "collapsed", "floor"):
        assert not teaches(scored(("No", 128, -0.5)), kind, BEST, base_temperature=1.0)


def test_a_ladder_reaches_exactly_its_maximum() -> None:
    ladder = Ladder(base_temperature=1.0, factor=1.4, max_temperature=2.0)
    temperatures = []
    for _ in range(5):
        temperatures.append(ladder.temperature("p"))
        ladder = ladder.after("p", "collapsed", teaches=False)
    assert temperatures == pytest.approx([1.0, 1.4, 1.96, 2.0, 2.0])
    assert ladder.temperature("another") == 1.0
    assert Ladder(1.0, 2.0, 4.0).top == 2
    assert Ladder(1.0, 2.0, 1.0).after("p", "collapsed", teaches=False).temperature("p") == 1.0


@pytest.mark.parametrize(
    ("rung", "kind", "taught", "after"),
    [
        (2, "learning", True, 1),
        (1, "learning", True, 0),
        (0, "learning", True, 0),
        (1, "learning", False, 2),
        (3, "learning", False, 0),
        (3, "collapsed", False, 3),
        (2, "solved", False, 0),
        (2, "floor", False, 0),
    ],
)
def test_the_next_rung(rung: int, kind: Kind, taught: bool, after: int) -> None:
    before = Ladder(1.0, 1.4, 2.0, rungs={"other": 1} | ({"p": rung} if rung else {}))
    ladder = before.after("p", kind, taught)
    assert dict(ladder.rungs) == {"other": 1} | ({"p": after} if after else {})
    assert before.rungs.get("p", 0) == rung


@pytest.mark.parametrize("settings", [(1.0, 1.0, 2.0), (1.0, 1.4, 0.5), (0.0, 1.4, 2.0)])
def test_a_ladder_that_cannot_climb_is_refused(settings: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="factor > 1"):
        Ladder(*settings)
