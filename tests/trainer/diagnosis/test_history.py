from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from trainer.diagnosis.history import (
    EXAMPLE_SEEN,
    EXAMPLE_STEP,
    MOST_ANSWERS,
    RECENT_ROLLOUTS,
    RECENT_STEPS,
    TEXT,
    TEXTS,
    History,
    Step,
    of_group,
    own_share,
)
from trainer.scored import EXAMPLE_SCORED_GROUP, ScoredGroup


def test_a_group_in_numbers() -> None:
    seen = of_group(3, EXAMPLE_SCORED_GROUP, "learning", learned=True, drift=0.4)
    assert (seen.prompt, seen.samples, seen.correct, seen.malformed, seen.truncated) == (3, 128, 96, 0, 0)
    assert (seen.reward_low, seen.reward_high) == (-0.5, 1.0)
    assert seen.reward_mean == pytest.approx(0.625)
    assert (seen.text, seen.text_share, sorted(seen.answers)) == ("Yes", 0.75, ["no", "yes"])
    assert seen.own_share == 1.0  # it is not of one text
    yes = replace(EXAMPLE_SCORED_GROUP.group, completions=EXAMPLE_SCORED_GROUP.group.completions[:1])
    of_one_text = ScoredGroup(yes, EXAMPLE_SCORED_GROUP.verdicts[:1])
    seen = of_group(3, of_one_text, "solved", learned=False, drift=None)
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


def step(exhausted: bool = False, **fields: Any) -> Step:
    return replace(EXAMPLE_STEP, groups=(replace(EXAMPLE_SEEN, **fields),), exhausted=exhausted)


def test_a_rescue_does_not_hide_what_the_prompt_answers_at_its_own_temperature() -> None:
    past = History.start(prompts=1, temperature=1.0).after(step(kind="floor", text="No", text_share=0.75))
    past = past.after(step(True, kind="floor", text="?", text_share=0.1, temperature=1.4, learned=False))
    assert past.unsolved.tolist() == [0]
    assert (past.texts, past.latest.text_share.tolist()) == ({0: "No"}, [0.75])
    assert (past.silent_steps, past.tally.hottest.tolist(), past.exhausted) == (1, [1.4], True)
    assert past.tally.rollouts.tolist() == [1]
    assert past.after(step(kind="solved")).unsolved.tolist() == []


def test_samples_are_counted_before_and_since_the_last_lesson() -> None:
    past = History.start(prompts=1, temperature=1.0)
    for learned in (True, False, True, False, False):
        past = past.after(step(learned=learned, samples=8, correct=int(learned)))
    tally = past.tally
    assert (tally.samples_before.tolist(), tally.correct_before.tolist()) == ([24], [2])
    assert (tally.samples_since.tolist(), tally.correct_since.tolist()) == ([16], [0])
    assert past.silent_steps == 2


def test_an_earlier_history_stays_as_it_was() -> None:
    before = History.start(prompts=1, temperature=1.0)
    before.after(step())
    assert not before.tally.known.any() and not before.latest.samples.any() and not len(before.recent.step)


def test_a_long_run_keeps_as_much_as_a_short_one() -> None:
    prompts = 64
    past = History.start(prompts, temperature=1.0)
    for number in range(600):
        groups = tuple(
            replace(
                EXAMPLE_SEEN,
                prompt=(number * 32 + index) % prompts,
                kind="floor",
                reward_low=-1.0,
                reward_high=-1.0,
                answers=frozenset({f"{number} {index}"}),
                text="long" * 99,
            )
            for index in range(32)
        )
        past = past.after(replace(EXAMPLE_STEP, groups=groups))
    assert len(past.recent.step) == RECENT_ROLLOUTS
    assert past.recent.step[-1] == past.steps == 600
    assert len(past.answers) == MOST_ANSWERS and len(past.texts) == TEXTS
    assert {len(text) for text in past.texts.values()} == {TEXT}
    assert (len(past.first), len(past.last), len(past.first_norms)) == (3, 3, 3)


def test_the_last_steps_are_kept_however_large_they_are() -> None:
    prompts = 200
    past = History.start(prompts, temperature=1.0)
    for _ in range(RECENT_STEPS + 20):
        past = past.after(
            replace(EXAMPLE_STEP, groups=tuple(replace(EXAMPLE_SEEN, prompt=n) for n in range(prompts)))
        )
    kept = RECENT_STEPS + 1  # those before the newest were kept whole when it came
    assert len(past.recent.step) == kept * prompts or len(past.recent.step) == RECENT_STEPS * prompts
    assert past.recent.since(past.steps - RECENT_STEPS).step.tolist() == [
        number for number in range(21, RECENT_STEPS + 21) for _ in range(prompts)
    ]
