from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from configs.schema import TrainingSettings
from rewards.prompts import Outcome, Verdict
from trainer.scored import EXAMPLE_SCORED_GROUP, ScoredGroup
from trainer.signal.advantages import EXAMPLE_LESSON, Lesson, assign
from trainer.signal.spread import _capped, spread

COUNTS = EXAMPLE_SCORED_GROUP.group.counts
LEVEL = replace(
    EXAMPLE_SCORED_GROUP, verdicts=tuple(replace(verdict, reward=0.5) for verdict in EXAMPLE_SCORED_GROUP.verdicts)
)
"""Without spread."""


def lessons(*groups: ScoredGroup, **training: Any) -> tuple[Lesson, ...]:
    return assign(groups, TrainingSettings(**training))


def test_worked_example() -> None:
    # 96 x 1.0 and 32 x -0.5: mean 0.625, std sqrt(0.75 * 0.375^2 + 0.25 * 1.125^2) = 0.649519
    (lesson,) = lessons(EXAMPLE_SCORED_GROUP)
    np.testing.assert_allclose(lesson.advantages, [0.375 / 0.649619, -1.125 / 0.649619], rtol=1e-6)
    np.testing.assert_allclose(lesson.advantages, EXAMPLE_LESSON.advantages, rtol=1e-5)
    np.testing.assert_array_equal(lesson.in_loss, EXAMPLE_LESSON.in_loss)
    assert lesson.advantages.dtype == np.float64


def test_a_batch_is_scaled_by_the_spread_of_all_its_samples() -> None:
    # With 128 x 0.5 beside them: mean 0.5625, std sqrt((96 * 0.4375^2 + 32 * 1.0625^2 + 128 * 0.0625^2) / 256)
    # = sqrt((18.375 + 36.125 + 0.5) / 256) = 0.463512
    lesson, level = lessons(EXAMPLE_SCORED_GROUP, LEVEL, scale_rewards="batch")
    np.testing.assert_allclose(lesson.advantages, [0.375 / 0.463612, -1.125 / 0.463612], rtol=1e-5)
    np.testing.assert_array_equal(level.advantages, [0, 0])


def test_without_scaling() -> None:
    (lesson,) = lessons(EXAMPLE_SCORED_GROUP, scale_rewards="none")
    np.testing.assert_allclose(lesson.advantages, [0.375, -1.125])


def test_against_the_mean_of_the_other_samples() -> None:
    # Others of a 1.0: (95 - 16) / 127; of a -0.5: (96 - 15.5) / 127
    (lesson,) = lessons(EXAMPLE_SCORED_GROUP, loss_type="rloo")
    np.testing.assert_allclose(lesson.advantages, [1.0 - 79 / 127, -0.5 - 80.5 / 127])


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "cispo", "dr_grpo", "rloo"])
def test_null_scales_as_the_paper_does(loss_type: str) -> None:
    (lesson,) = lessons(EXAMPLE_SCORED_GROUP, loss_type=loss_type)
    scale = {"dr_grpo": "none", "rloo": "none"}.get(loss_type, "group")
    (explicit,) = lessons(EXAMPLE_SCORED_GROUP, loss_type=loss_type, scale_rewards=scale)
    np.testing.assert_array_equal(lesson.advantages, explicit.advantages)


def test_same_as_over_explicit_samples() -> None:
    rewards = np.repeat(EXAMPLE_SCORED_GROUP.rewards, COUNTS)
    explicit = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
    (lesson,) = lessons(EXAMPLE_SCORED_GROUP)
    np.testing.assert_allclose(np.repeat(lesson.advantages, COUNTS), explicit)
    assert abs(np.average(lesson.advantages, weights=COUNTS)) < 1e-12

    others = np.array([np.delete(rewards, sample).mean() for sample in range(len(rewards))])
    (lesson,) = lessons(EXAMPLE_SCORED_GROUP, loss_type="rloo")
    np.testing.assert_allclose(np.repeat(lesson.advantages, COUNTS), rewards - others)


def test_truncated_completions_count_in_the_mean_and_not_in_the_loss() -> None:
    group = EXAMPLE_SCORED_GROUP.group
    cut = replace(group, completions=(group.completions[0], replace(group.completions[1], finish_reason="length")))
    (lesson,) = lessons(replace(EXAMPLE_SCORED_GROUP, group=cut), mask_truncated_completions=True)
    assert lesson.in_loss.tolist() == [True, False]
    np.testing.assert_allclose(lesson.advantages, EXAMPLE_LESSON.advantages, rtol=1e-5)
    (lesson,) = lessons(replace(EXAMPLE_SCORED_GROUP, group=cut))
    assert lesson.in_loss.tolist() == [True, True]


def test_no_answer_keeps_more_than_its_share() -> None:
    shares = {"a": 0.6, "b": 0.11} | {str(index): 0.01 for index in range(29)}
    capped = _capped(shares)
    # a and b down to 0.1 each; the 29 others share the remaining 0.8.
    assert capped == pytest.approx({"a": 0.1, "b": 0.1} | {str(index): 0.8 / 29 for index in range(29)})
    assert _capped({"a": 0.6, "b": 0.2}) == pytest.approx({"a": 0.5, "b": 0.5})
    flat = {str(index): 0.05 for index in range(10)}  # the other half of the samples is no answer
    assert _capped(flat) == pytest.approx(dict.fromkeys(flat, 0.1))


def test_spreading_leads_away_from_crowding_answers_and_from_none() -> None:
    # Of 8 samples, 4 say 11 (in two ways), 2 say 12, 2 say nothing: an even half for each of the two answers.
    texts: list[tuple[str, int, Outcome]] = [
        ("11", 3, "wrong"),
        ("11.", 1, "wrong"),
        ("12", 2, "wrong"),
        ("Hm", 2, "malformed"),
    ]
    completions = tuple(
        replace(EXAMPLE_SCORED_GROUP.group.completions[0], text=text, count=count) for text, count, _ in texts
    )
    group = replace(
        EXAMPLE_SCORED_GROUP,
        group=replace(EXAMPLE_SCORED_GROUP.group, completions=completions),
        verdicts=tuple(Verdict(-0.5, outcome) for *_, outcome in texts),
    )
    # 0.5 / 0.5 - 1 = 0; 0.5 / 0.25 - 1 = 1; -1. std sqrt((2 + 2) / 8) < 1 divides nothing.
    np.testing.assert_allclose(spread(group), [0, 0, 1, -1])
    (lesson,) = assign([group], TrainingSettings(), [True])
    np.testing.assert_allclose(lesson.advantages, [0, 0, 1, -1])


def test_spreading_from_a_sharp_group_is_scaled_as_rewards_are() -> None:
    completions = tuple(
        replace(EXAMPLE_SCORED_GROUP.group.completions[0], text=text, count=count)
        for text, count in (("11", 127), ("12", 1))
    )
    group = replace(
        EXAMPLE_SCORED_GROUP,
        group=replace(EXAMPLE_SCORED_GROUP.group, completions=completions),
        verdicts=(Verdict(-0.5, "wrong"),) * 2,
    )
    advantages = spread(group)
    assert np.average(advantages, weights=group.group.counts) == pytest.approx(0)
    assert np.average(advantages**2, weights=group.group.counts) == pytest.approx(1)
    assert advantages[0] < 0 < advantages[1]


def test_spreading_leads_to_the_closer_answers_where_they_are_many() -> None:
    # 20 answers, the mean reward -0.3: ten of them are closer, and share what the others lose.
    completions = tuple(replace(EXAMPLE_SCORED_GROUP.group.completions[0], text=str(n), count=2) for n in range(20))
    verdicts = tuple(Verdict(-0.1 if n < 10 else -0.5, "wrong") for n in range(20))
    group = ScoredGroup(replace(EXAMPLE_SCORED_GROUP.group, completions=completions), verdicts)
    np.testing.assert_allclose(spread(group), [1.0] * 10 + [-1.0] * 10)
    # Of nine closer ones each would get more than a tenth: all answers alike.
    fewer = replace(group, verdicts=tuple(Verdict(-0.1 if n < 9 else -0.5, "wrong") for n in range(20)))
    np.testing.assert_allclose(spread(fewer), np.zeros(20), atol=1e-12)
