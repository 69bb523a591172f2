from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from configs.schema import Config
from trainer.diagnosis.history import EXAMPLE_SEEN, EXAMPLE_STEP, History, Step, of_group, own_share
from trainer.scored import EXAMPLE_SCORED_GROUP

CONFIG = Config.model_validate({"task": {"name": "comparison"}, "run": {"max_steps": 9}})


def test_a_group_in_numbers() -> None:
    seen = of_group(EXAMPLE_SCORED_GROUP, "learning", learned=True, shift=0.4)
    assert (seen.samples, seen.correct, seen.malformed, seen.truncated) == (128, 96, 0, 0)
    assert (seen.reward_low, seen.reward_high) == (-0.5, 1.0)
    assert seen.reward_mean == pytest.approx(0.625)
    assert (seen.text, seen.text_share, sorted(seen.answers)) == ("Yes", 0.75, ["no", "yes"])
    assert seen.own_share == pytest.approx(np.exp(-0.4), rel=1e-5)  # sampled at 1.0


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_the_models_own_share_is_recovered_from_any_temperature(temperature: float) -> None:
    """Two tokens to choose from: the bound is exact."""
    logits = np.array([2.0, 1.2])
    hot, own = (np.exp(logits / t) / np.exp(logits / t).sum() for t in (temperature, 1.0))
    assert own_share(np.log(hot[:1]), temperature) == pytest.approx(own[0], rel=1e-4)


def test_more_rivals_only_lower_the_models_own_share() -> None:
    logits = np.array([2.0, 1.2, 1.0, 0.5])
    cold, own = (np.exp(logits / t) / np.exp(logits / t).sum() for t in (0.3, 1.0))
    assert own_share(np.log(cold[:1]), 0.3) > own[0]


def step(**fields: Any) -> Step:
    return replace(EXAMPLE_STEP, groups=(replace(EXAMPLE_SEEN, **fields),))


def test_a_rescue_does_not_hide_what_the_prompt_answers_at_its_own_temperature() -> None:
    past = History(CONFIG, 1.0, prompts=1)
    past = past.record(step(text="No"), exhausted=False, seconds=1.0)
    past = past.record(step(text="?", temperature=1.4, learned=False), exhausted=True, seconds=2.0)
    assert [seen.text for seen in past.unsolved] == ["No"]
    assert (past.silent_steps, past.hottest, past.exhausted, past.seconds) == (1, 1.4, True, 2.0)
    assert past.visits == {"comparison-7-3": 1}
    assert past.record(step(kind="solved"), exhausted=False, seconds=3.0).unsolved == ()


def test_a_long_run_does_not_keep_every_text() -> None:
    past = History(CONFIG, 1.0, prompts=1).record(step(), exhausted=False, seconds=1.0)
    assert past.steps[0].groups[0].answers == frozenset()
    assert past.unsolved[0].answers == past.latest["comparison-7-3"].answers == {"yes", "no"}
