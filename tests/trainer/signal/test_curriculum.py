from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from configs.schema import Config
from tests.scored import scored
from trainer.signal.curriculum import Curriculum
from trainer.signal.rollout import Rollout
from trainer.signal.treatment import Treated

PROMPTS = 8
GROUP = scored(("Yes", 4, 1.0))
LEARNING = Treated(Rollout(0, 1.0, 0, 8), GROUP, "learning", "reward", None, False, False, missed=False, next_size=8)
SOLVED = replace(LEARNING, kind="solved", treatment="skip")
COLLAPSED = replace(LEARNING, kind="collapsed", treatment="skip", narrow=True, missed=True)
FLOOR = replace(LEARNING, kind="floor", treatment="skip", missed=True)
SPREADING = replace(LEARNING, treatment="spread", can_spread=True, missed=True)


def config(seed: int = 0, **signal: Any) -> Config:
    values = {"rescue_factor": 1.5, "rescue_visits": 1} | signal
    return Config.model_validate(
        {"task": {"name": "comparison"}, "run": {"max_steps": 1}, "seed": seed, "signal": values}
    )


def start(prompts: int = PROMPTS) -> Curriculum:
    return Curriculum.start(prompts)


def after(now: Curriculum, outcomes: Mapping[int, Treated], settings: Config | None = None) -> Curriculum:
    treated = [replace(one, rollout=Rollout(number, 1.0, 0, 8)) for number, one in outcomes.items()]
    return now.after(settings or config(), treated)


def numbers(rollouts: Iterable[Rollout]) -> list[int]:
    return [rollout.prompt for rollout in rollouts]


def test_every_prompt_is_asked_before_any_is_asked_again() -> None:
    now = start()
    seen: list[int] = []
    for _ in range(4):
        taken = numbers(now.take(config(), 2))
        seen += taken
        now = after(now, dict.fromkeys(taken, LEARNING))
    assert sorted(seen) == list(range(PROMPTS))
    assert sorted(seen[:2]) == sorted(numbers(now.take(config(), 2)))


def test_a_prompt_that_is_new_gets_as_many_samples_as_others_needed() -> None:
    now, whole = start(), config().sampling.num_generations
    assert {rollout.num_generations for rollout in now.take(config(), PROMPTS)} == {whole}
    now = after(now, {0: replace(LEARNING, next_size=32), 1: replace(LEARNING, next_size=32), 2: LEARNING})
    sizes = {rollout.prompt: rollout.num_generations for rollout in now.take(config(), PROMPTS)}
    assert sizes == dict.fromkeys(range(PROMPTS), 32) | {2: LEARNING.next_size}


def test_a_first_group_is_as_large_as_an_evaluation_says() -> None:
    now = Curriculum.start(PROMPTS, {0: 64, 2: 16, 3: 16})
    sizes = {rollout.prompt: rollout.num_generations for rollout in now.take(config(), PROMPTS)}
    assert sizes == dict.fromkeys(range(PROMPTS), 16) | {0: 64}


def test_the_order_is_that_of_a_stable_sort_of_everything() -> None:
    """What a sort would choose, without sorting."""
    rng = np.random.default_rng(3)
    for step in range(30):
        now = replace(
            start(50),
            step=step,
            last=rng.integers(-1, 6, 50).astype(np.int32),
            solved=rng.random(50) < 0.4,
        )
        order = np.random.default_rng([0, step]).permutation(50)
        waiting = sorted(order.tolist(), key=lambda number: now.last[number])
        unsolved = [number for number in waiting if not now.solved[number]]
        solved = [number for number in waiting if now.solved[number]]
        n = int(rng.integers(1, 51))
        replayed = min(max(1, round(0.25 * n)), n - 1, len(solved))
        fresh = unsolved[: n - replayed]
        assert numbers(now.take(config(), n)) == fresh + solved[: n - len(fresh)]


def test_order_depends_on_the_seed_alone() -> None:
    assert start().take(config(seed=3), 8) == start().take(config(seed=3), 8)
    assert len({tuple(numbers(start().take(config(seed=seed), 8))) for seed in range(5)}) > 1


@pytest.mark.parametrize(
    ("share", "n", "replayed"),
    [(0.25, 4, 1), (0.25, 3, 1), (0.5, 4, 2), (0.99, 3, 2), (0.0, 4, 0), (0.25, 1, 0)],
)
def test_share_of_replayed_prompts(share: float, n: int, replayed: int) -> None:
    now = after(start(), dict.fromkeys(range(4), SOLVED))
    taken = numbers(now.take(config(replay=share), n))
    assert len(set(taken)) == n
    assert sum(number < 4 for number in taken) == replayed


def test_the_solved_prompt_longest_not_asked_is_replayed() -> None:
    now = after(after(after(start(), {0: SOLVED}), {1: SOLVED}), {0: SOLVED})
    assert numbers(now.take(config(), 4))[-1] == 1


def test_either_kind_fills_in_for_the_other() -> None:
    few_unsolved = after(start(), dict.fromkeys(range(7), SOLVED))
    assert numbers(few_unsolved.take(config(), 4))[0] == 7
    assert len(set(numbers(few_unsolved.take(config(), 4)))) == 4
    few_solved = after(start(), {0: SOLVED})
    assert sorted(numbers(few_solved.take(config(replay=0.75), 8))) == list(range(PROMPTS))
    all_solved = after(start(), dict.fromkeys(range(PROMPTS), SOLVED))
    assert sorted(numbers(all_solved.take(config(replay=0.0), 8))) == list(range(PROMPTS))


def test_a_prompt_found_unsolved_on_replay_is_unsolved_again() -> None:
    now = after(after(start(), dict.fromkeys(range(4), SOLVED)), {0: LEARNING, 1: SOLVED})
    assert np.flatnonzero(now.solved).tolist() == [1, 2, 3] and now.prompts_solved == 3


def test_temperatures_come_from_the_ladder() -> None:
    now = after(start(), {0: COLLAPSED, 1: LEARNING})
    temperatures = {rollout.prompt: rollout.temperature for rollout in now.take(config(), 8)}
    assert temperatures == dict.fromkeys(range(PROMPTS), 1.0) | {0: 1.5}
    again = after(now, {0: LEARNING})
    assert all(rollout.temperature == 1.0 for rollout in again.take(config(), 8))


def test_an_earlier_curriculum_stays_as_it_was() -> None:
    before = start()
    after(before, {0: COLLAPSED, 1: SOLVED})
    assert before.prompts_solved == before.rungs.sum() == before.misses.sum() == before.tries.sum() == 0


def test_more_prompts_than_there_are() -> None:
    with pytest.raises(ValueError, match="9 different prompts from a data set of 8"):
        start().take(config(), 9)


def repeated(now: Curriculum, outcome: Treated, times: int, settings: Config) -> Curriculum:
    for _ in range(times):
        now = after(now, dict.fromkeys(range(PROMPTS), outcome), settings)
    return now


@pytest.mark.parametrize(
    ("outcome", "rollouts"), [(COLLAPSED, 3), (SPREADING, 3), (FLOOR, 1)], ids=["collapsed", "spreading", "floor"]
)
def test_exhausted_when_every_rescue_was_tried(outcome: Treated, rollouts: int) -> None:
    settings = config(rescue_visits=3)
    assert not repeated(start(), outcome, rollouts - 1, settings).exhausted(settings)
    tried = repeated(start(), outcome, rollouts, settings)
    assert tried.exhausted(settings)
    lesson = after(tried, {0: LEARNING}, settings)
    assert not lesson.exhausted(settings)  # a lesson of one prompt changes what others answer
    assert after(tried, {0: SOLVED}, settings).exhausted(settings)
    assert not repeated(tried, SOLVED, 1, settings).exhausted(settings)  # nothing is left to learn


def test_not_exhausted_before_every_unsolved_prompt_was_asked() -> None:
    some = dict.fromkeys(range(7), FLOOR)
    assert not after(start(), some).exhausted(config())
    assert after(start(), some | {7: SOLVED}).exhausted(config())


def test_without_a_rescue_one_rollout_is_all() -> None:
    settings = config(rescue_visits=3, rescue=False)
    assert repeated(start(), COLLAPSED, 1, settings).exhausted(settings)


def test_misses_are_counted_in_a_row() -> None:
    now = after(repeated(start(), FLOOR, 2, config()), {0: LEARNING, 1: COLLAPSED})
    assert now.misses[:3].tolist() == [0, 3, 2]


def some(now: Curriculum, steps: int) -> Curriculum:
    for _ in range(steps):
        now = after(now, dict.fromkeys(numbers(now.take(config(), 8)), FLOOR))
    return now


def test_many_prompts_without_a_lesson_stand_for_a_large_data_set() -> None:
    assert not some(start(1000), 7).exhausted(config())
    assert some(start(1000), 8).exhausted(config())


def test_where_lessons_are_rare_a_longer_silence_is_no_accident() -> None:
    rare = after(some(start(1000), 5), {0: LEARNING})  # one lesson in 41 rollouts
    assert not some(rare, 25).exhausted(config())
    assert some(rare, 26).exhausted(config())  # more than five times 41
    frequent = after(start(1000), dict.fromkeys(range(4), LEARNING))
    assert not some(frequent, 7).exhausted(config())
    assert some(frequent, 8).exhausted(config())


def test_tries_are_counted_up_to_what_a_rescue_has_and_never_overflow() -> None:
    settings = config(rescue_visits=1_000_000, rescue=False)
    now = repeated(start(), COLLAPSED, 5000 // PROMPTS, settings)
    assert now.tries.tolist() == [1_000_000] * PROMPTS and now.exhausted(settings)
