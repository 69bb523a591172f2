"""How many samples a prompt's next group gets."""

from typing import Any

import pytest

from configs.schema import Config
from tests.equivalence.dense import make_lesson
from trainer.scored import ScoredGroup
from trainer.signal.group_size import next_size
from trainer.signal.kinds import Kind


def size(scored: ScoredGroup, kind: Kind = "learning", **training: Any) -> int:
    config = Config.model_validate(
        {
            "task": {"name": "comparison"},
            "run": {"max_steps": 1},
            "sampling": {"num_generations": 128},
            "training": {"max_distinct_completions": 32} | training,
        }
    )
    return next_size(config, scored, kind, best_reward=1.0)


def group(right: int, samples: int, count: int = 1, temperature: float = 1.0) -> ScoredGroup:
    """So many samples, `count` of each text, so many of them right."""
    texts = range(samples // count)
    rewards = [1.0 if (text + 1) * count <= right else 0.0 for text in texts]
    return make_lesson([1, 2], [([5 + text], count, rewards[text]) for text in texts], temperature).scored


@pytest.mark.parametrize(
    ("right", "samples", "expected"),
    [(64, 128, 32), (32, 128, 64), (96, 128, 64), (16, 32, 32), (8, 64, 128), (1, 128, 128), (127, 128, 128)],
)
def test_as_many_as_hold_enough_of_right_and_wrong(right: int, samples: int, expected: int) -> None:
    assert size(group(right, samples)) == expected


def test_a_group_whose_completions_repeat_costs_little_and_stays_whole() -> None:
    assert size(group(64, 128, count=4)) == 128
    assert size(group(64, 128, count=2)) == 32
    assert size(group(64, 128, count=4), max_distinct_completions=16) == 128
    assert size(group(64, 128, count=2), max_distinct_completions=16) == 16


def test_a_small_group_whose_completions_begin_to_repeat_is_whole_again() -> None:
    """16 of 32 samples were seen once: a whole group would hold 20 + 96 / 2 texts. None was: 16."""
    once = make_lesson([1, 2], [([5 + i], 4 if i < 4 else 1, float(i % 2)) for i in range(20)]).scored
    assert size(once) == 32
    assert size(group(16, 32, count=2)) == 128


def test_where_nothing_is_right_or_all_is_the_group_stays_whole() -> None:
    assert size(group(0, 128)) == 128
    assert size(group(128, 128), "solved") == 128


def test_a_rescue_says_nothing_of_the_usual_temperature() -> None:
    assert size(group(64, 128, temperature=1.4)) == 128


def test_no_group_is_larger_than_configured() -> None:
    assert size(group(256, 512), max_distinct_completions=200) == 128


def test_without_a_limit_all_groups_are_whole() -> None:
    assert size(group(64, 128), max_distinct_completions=None) == 128
