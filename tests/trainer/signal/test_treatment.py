from collections.abc import Sequence
from typing import Any

import pytest

from configs.schema import Config
from rewards.prompts import EXAMPLE_PROMPT
from tests.scored import scored
from trainer.signal.curriculum import Visit
from trainer.signal.self_imitation import Recall
from trainer.signal.treatment import Treatment, treat

STUCK = Visit(EXAMPLE_PROMPT.id, temperature=1.0, misses=3)
HAS_RIGHT = [("7", 1, 1.0), ("near", 3, -0.1), ("far", 1, -0.9)]
NONE_RIGHT = [("near", 30, -0.1), ("far", 10, -0.5)]


def treatment(samples: Sequence[tuple[str, int, float]], visit: Visit = STUCK, **signal: Any) -> Treatment:
    """Of one group; an earlier one had a right answer."""
    config = Config.model_validate({"task": {"name": "comparison"}, "signal": signal, "run": {"max_steps": 1}})
    recall = Recall().after([scored(*HAS_RIGHT)], 1.0)
    (found,) = treat(config, [scored(*samples)], [visit], recall, 1.0)
    return found


def test_a_group_with_a_right_answer_recalls_none() -> None:
    found = treatment(HAS_RIGHT)
    assert not found.recalled and not found.spread and found.outcome.teaches
    assert found.lesson is not None and len(found.lesson.advantages) == 3


def test_a_recalled_answer_takes_the_place_of_spreading() -> None:
    found = treatment(NONE_RIGHT)
    assert found.recalled and not found.spread and found.outcome.teaches and found.outcome.missed
    assert found.lesson is not None and found.lesson.advantages[2] > 0 > max(found.lesson.advantages[:2])
    waiting = treatment(NONE_RIGHT, STUCK._replace(misses=2))
    assert waiting.spread and not waiting.recalled and not waiting.outcome.teaches


@pytest.mark.parametrize(("mode", "alike"), [("spread", True), ("skip", True), ("train", False)])
def test_wrong_answers_beside_a_right_one_are_alike_unless_rewards_are_taken_as_they_are(
    mode: str, alike: bool
) -> None:
    lesson = treatment(HAS_RIGHT, without_best=mode).lesson
    assert lesson is not None
    assert bool(lesson.advantages[1] == pytest.approx(lesson.advantages[2])) is alike


def test_a_spread_that_would_change_nothing_is_no_lesson() -> None:
    """Two answers of the same frequency, and no others: they are spread as they are."""
    config = Config.model_validate({"task": {"name": "comparison"}, "run": {"max_steps": 1}})
    (even,) = treat(config, [scored(("near", 1, -0.1), ("far", 1, -0.1))], [STUCK], Recall(), 1.0)
    assert even.lesson is None and not even.spread and even.outcome.spreads
    (uneven,) = treat(config, [scored(("near", 3, -0.1), ("far", 1, -0.1))], [STUCK], Recall(), 1.0)
    assert uneven.lesson is not None and uneven.spread
