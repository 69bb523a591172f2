"""Which rewards tell right from wrong, and which are a score."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import Config
from tests.scored import scored
from trainer.signal.right_and_wrong import FEW_REWARDS, RewardsSeen, without_best

OWN = {"dataset": "data.jsonl", "reward": "rewards.py:f"}


def config(task: dict[str, Any] = OWN, **signal: Any) -> Config:
    return Config.model_validate({"task": task, "signal": signal, "run": {"max_steps": 1}})


def seen(*rewards: float, best: float = 1.0) -> RewardsSeen:
    return RewardsSeen().after([scored(*[(str(r), 1, r) for r in rewards], best=best)], best)


def mode(*rewards: float, best: float = 1.0) -> str:
    return without_best(config(), seen(*rewards, best=best), best).mode


@pytest.mark.parametrize(
    "rewards",
    [
        (0.0, 1.0),
        (-1.0, -0.5, 1.0),
        (0.0, 0.25, 0.5, 0.75, 1.0),  # tests passed
        (1.0,),
        (0.0,),  # nothing right yet, and nothing else to learn
        (*[-0.01 * i for i in range(50)], 1.0),  # near misses, and a line between them and what is right
    ],
)
def test_these_tell_right_from_wrong(rewards: tuple[float, ...]) -> None:
    assert mode(*rewards) == "spread"


@pytest.mark.parametrize(
    "rewards",
    [
        tuple(-float(i) for i in range(5)),  # shorter is better, and nothing is best
        tuple(i / 20 for i in range(21)),  # a likeness, up to 1
        (0.0, 0.2, 1.0, 1.2),  # two functions added up, and task.best_reward left as it is
        (-1.0, 0.0),  # none is right
    ],
)
def test_these_are_scores(rewards: tuple[float, ...]) -> None:
    assert mode(*rewards) == "train"


def test_the_setting_and_a_built_in_task_need_no_rewards() -> None:
    score = seen(*[i / 20 for i in range(21)])
    assert without_best(config(without_best="spread"), score, 1.0).mode == "spread"
    assert without_best(config(without_best="train"), seen(0.0, 1.0), 1.0).mode == "train"
    assert without_best(config({"name": "comparison"}), score, 1.0).mode == "spread"


def test_the_reason_has_the_rewards_and_what_to_set() -> None:
    assert (
        without_best(config(), seen(0.0, 1.0), 1.0).why
        == "The rewards so far are 0, 1: they tell right (1) from wrong."
    )
    above = without_best(config(), seen(0.0, 1.5), 1.0).why
    assert "1.5 is above task.best_reward 1" in above and "set task.best_reward to what they earn" in above
    assert "many, from 0 to 1: a score" in without_best(config(), seen(*[i / 20 for i in range(21)]), 1.0).why
    assert mode(0.0, 1.5, best=1.5) == "spread"


@given(
    st.lists(
        st.lists(st.sampled_from([i / 16 for i in range(-16, 33)]), min_size=1, max_size=12), min_size=1, max_size=6
    )
)
def test_it_does_not_matter_in_which_steps_rewards_came(steps: Sequence[Sequence[float]]) -> None:
    one_by_one = RewardsSeen()
    for rewards in steps:
        one_by_one = one_by_one.joined(seen(*rewards))
    at_once = seen(*[reward for rewards in steps for reward in rewards])
    assert one_by_one == at_once
    assert len(at_once.different) <= FEW_REWARDS + 1
