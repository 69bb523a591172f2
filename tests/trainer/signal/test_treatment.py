from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from configs.schema import Config
from rewards.prompts import EXAMPLE_PROMPT
from tests.scored import scored
from trainer.run import Run
from trainer.signal.rollout import Rollout
from trainer.signal.self_imitation import SelfImitation
from trainer.signal.treatment import Treated, treat

STUCK = Rollout(prompt=0, temperature=1.0, misses=3, num_generations=8)
HAS_RIGHT = [("7", 1, 1.0), ("near", 3, -0.1), ("far", 1, -0.9)]
NONE_RIGHT = [("near", 30, -0.1), ("far", 10, -0.5)]
REMEMBERS = SelfImitation().after([0], [scored(*HAS_RIGHT)], 1.0)


def treated(
    samples: Sequence[tuple[str, int, float]],
    rollout: Rollout = STUCK,
    memory: SelfImitation = REMEMBERS,
    **signal: Any,
) -> Treated:
    """One group; an earlier one had a right answer."""
    config = Config.model_validate({"task": {"name": "comparison"}, "signal": signal, "run": {"max_steps": 1}})
    (found,) = treat(
        Run(config, (EXAMPLE_PROMPT,), 1.0, "float32"),
        config.signal.without_best or "spread",
        [rollout],
        [scored(*samples)],
        memory,
    )
    return found


def test_a_group_with_a_right_answer_is_trained_on_by_its_rewards_and_shown_none() -> None:
    found = treated(HAS_RIGHT)
    assert found.treatment == "reward" and found.teaches and not found.missed
    assert found.lesson is not None and len(found.lesson.advantages) == 3


def test_an_earlier_right_answer_takes_the_place_of_spreading() -> None:
    found = treated(NONE_RIGHT)
    assert found.treatment == "replay" and found.teaches and found.missed
    assert found.lesson is not None and found.lesson.advantages[2] > 0 > max(found.lesson.advantages[:2])
    assert len(found.scored.verdicts) == 2  # as sampled
    waiting = treated(NONE_RIGHT, replace(STUCK, misses=2))
    assert waiting.treatment == "spread" and not waiting.teaches


@pytest.mark.parametrize(("mode", "alike"), [("spread", True), ("skip", True), ("train", False)])
def test_wrong_answers_beside_a_right_one_are_alike_unless_rewards_are_taken_as_they_are(
    mode: str, alike: bool
) -> None:
    lesson = treated(HAS_RIGHT, without_best=mode).lesson
    assert lesson is not None
    assert bool(lesson.advantages[1] == pytest.approx(lesson.advantages[2])) is alike


def test_without_a_right_answer_there_is_nothing_to_train_on_in_the_mode_skip() -> None:
    found = treated(NONE_RIGHT, memory=SelfImitation(), without_best="skip")
    assert (found.treatment, found.lesson, found.can_spread, found.missed) == ("skip", None, False, True)


def test_a_spread_that_would_change_nothing_is_no_lesson() -> None:
    """Two answers of the same frequency, and no others: they are spread as they are."""
    even = treated([("near", 1, -0.1), ("far", 1, -0.1)], memory=SelfImitation())
    assert (even.treatment, even.lesson, even.can_spread) == ("skip", None, True)
    uneven = treated([("near", 3, -0.1), ("far", 1, -0.1)], memory=SelfImitation())
    assert uneven.treatment == "spread" and uneven.lesson is not None


def test_what_is_no_answer_like_the_right_ones_is_led_away_from() -> None:
    """Whole words, where four prompts are known whose right answers are numbers."""
    numbers = [scored((text, 8, 1.0)) for text in ("1", "12", "3", "13")]
    knows = SelfImitation().after([1, 2, 3, 4], numbers, 1.0)
    words = [("ananas", 8, 0.0), ("history", 8, 0.0), ("75", 1, 0.0), ("4", 1, 0.0)]
    found = treated(words, Rollout(0, 1.0, 0, 18), memory=knows)
    assert found.treatment == "spread" and found.lesson is not None  # for too many are no answers
    assert max(found.lesson.advantages[:2]) < 0 < min(found.lesson.advantages[2:])
    assert found.scored.samples["wrong"] == 18  # as scored
    assert treated(words, Rollout(0, 1.0, 0, 18), memory=SelfImitation()).treatment == "skip"
    assert treated([*words, ("7", 1, 1.0)], memory=knows).treatment == "reward"
