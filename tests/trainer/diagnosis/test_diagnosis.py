"""Every cause on histories made by hand: where it is named, and the healthy twin where it is not."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from configs.schema import Config
from trainer.diagnosis.causes import PLATEAU_STEPS, UNMOVED_UPDATES, HoldTrial, find, is_silent
from trainer.diagnosis.history import EXAMPLE_SEEN, EXAMPLE_STEP, History, Seen, Step
from trainer.diagnosis.sentences import Diagnosis, tell
from trainer.diagnosis.trial import NOTHING_PROVED, Trial
from trainer.run import Run
from trainer.signal.chances import chance_of_right

CHANGED_BY_QUESTION = Trial(question_matters=True, answer_pays=True)
MANY = frozenset({"1", "2", "3", "4", "5"})


def config(**sections: Any) -> Config:
    run = {"max_steps": 500, "target_reward": 1.0} | sections.pop("run", {})
    task = sections.pop("task", {"name": "comparison"})
    return Config.model_validate({"task": task, "run": run, **sections})


OWN_TASK = {"dataset": "mine.jsonl", "reward": "mine.py:exact"}


def number(name: str) -> int:
    """Of a prompt, by its name: a is 0, b is 1, and p0, p1 ... or q0, q1 ... are."""
    return int(name[1:]) + (20 if name[0] == "q" else 0) if name[1:] else ord(name) - ord("a")


def wrong(name: str, **fields: Any) -> Seen:
    """A group of 128 samples without a right answer, of many texts."""
    values: dict[str, Any] = {
        "prompt": number(name), "kind": "floor", "learned": False, "temperature": 1.0, "samples": 128, "correct": 0,
        "malformed": 0, "truncated": 0, "reward_mean": -0.5, "reward_std": 0.0, "reward_low": -0.5,
        "reward_high": -0.5, "answers": MANY, "text": "12", "text_share": 0.2, "own_share": 0.2, "drift": 0.5,
    }  # fmt: skip
    return replace(EXAMPLE_SEEN, **values | fields)


def mixed(name: str, reward: float = 0.0, **fields: Any) -> Seen:
    """A group that learned."""
    values: dict[str, Any] = {
        "kind": "learning",
        "learned": True,
        "reward_mean": reward,
        "reward_std": 0.7,
        "reward_high": 1.0,
    }
    return wrong(name, **values | {"correct": 40} | fields)


def solved(name: str) -> Seen:
    return wrong(name, kind="solved", correct=128, reward_mean=1.0, reward_low=1.0, reward_high=1.0, text_share=1.0)


def step(*groups: Seen, now: float = 0.0, **fields: Any) -> Step:
    updated = any(seen.learned for seen in groups)
    return replace(EXAMPLE_STEP, groups=groups, updated=updated, reward_start=-0.2, reward_now=now, **fields)


@dataclass(frozen=True)
class Past:
    """A run that has done these steps, all of it with the same `exhausted`. prompts: in the data set, if not those of
    the steps."""

    steps: Sequence[Step]
    config: Config
    exhausted: bool = True
    prompts: int | None = None
    reached: bool = False

    @property
    def history(self) -> History:
        names = sorted({seen.prompt for each in self.steps for seen in each.groups})
        numbers = {name: index for index, name in enumerate(names)}
        past = History.start(self.prompts or len(names), self.config.sampling.temperature)
        for index, each in enumerate(self.steps):
            groups = tuple(replace(seen, prompt=numbers[seen.prompt]) for seen in each.groups)
            past = past.after(replace(each, groups=groups, exhausted=self.exhausted, seconds_total=4.2 * (index + 1)))
        return replace(past, reached=self.reached)


def history(steps: Sequence[Step], settings: Config | None = None, *, exhausted: bool = True) -> Past:
    return Past(steps, settings or config(), exhausted)


def diagnose(past: Past, trial: HoldTrial) -> Diagnosis | None:
    run = Run(past.config, (), best_reward=1.0, dtype="float32")
    evidence = find(run, past.history, trial)
    return tell(evidence, past.config) if evidence else None


def silent(past: Past) -> bool:
    return is_silent(Run(past.config, (), best_reward=1.0, dtype="float32"), past.history)


def found(past: Past, trial: Trial = CHANGED_BY_QUESTION) -> Diagnosis | None:
    return diagnose(past, lambda: trial)


def cause(past: Past, trial: Trial = CHANGED_BY_QUESTION) -> str | None:
    diagnosis = found(past, trial)
    return diagnosis.cause if diagnosis else None


def test_silence_needs_three_steps_and_nothing_left_to_try() -> None:
    steps = [step(mixed("a")), *[step(wrong("a"))] * 3]
    assert silent(history(steps))
    assert not silent(history(steps[:-1]))
    assert not silent(history(steps, exhausted=False))
    assert found(history(steps, exhausted=False)) is None
    assert not silent(history([*steps, step(mixed("a"), wrong("b"))]))


def test_a_verdict_and_its_advice_are_a_sentence_each() -> None:
    cut = [step(wrong("a", truncated=124, text="Well, that"), wrong("b", truncated=125))] * 3
    diagnosis = found(history(cut, config(sampling={"max_completion_length": 4})))
    assert diagnosis == Diagnosis(
        "truncated",
        "No group has learned for 3 steps: 97% of 256 completions were cut off at sampling.max_completion_length 4.",
        "Raise sampling.max_completion_length to 16, or ask for shorter answers with task.system_prompt, or show "
        "examples with task.few_shot: 3.",
    )


def test_truncated_is_the_rule_and_not_the_exception() -> None:
    few = [step(wrong("a", truncated=60), wrong("b", truncated=60))] * 3
    assert cause(history(few)) == "out_of_reach"


def test_format_never_met() -> None:
    rambling = [step(wrong("a", malformed=128, text="The answer is 12"), wrong("b", malformed=100))] * 3
    diagnosis = found(history(rambling))
    assert diagnosis is not None and diagnosis.cause == "format_never_met"
    assert "89% of 256 completions" in diagnosis.verdict and "'The answer is 12'" in diagnosis.verdict
    assert "task.few_shot" in diagnosis.advice
    assert cause(history([step(wrong("a", malformed=50))] * 3)) == "out_of_reach"


@pytest.mark.parametrize(
    ("truncated", "malformed", "expected"),
    [
        (70, 58, "format_never_met"),  # no completion that ended is an answer
        (60, 60, "format_never_met"),
        (70, 20, "truncated"),  # most of those that ended are answers
        (110, 18, "truncated"),  # too few ended to tell
    ],
)
def test_what_was_cut_off_would_hardly_have_met_a_format_that_nothing_meets(
    truncated: int, malformed: int, expected: str
) -> None:
    diagnosis = found(history([step(wrong("a", truncated=truncated, malformed=malformed))] * 3))
    assert diagnosis is not None and diagnosis.cause == expected
    assert f"{truncated / 128:.0%}" in diagnosis.verdict and "were cut off" in diagnosis.verdict


def test_the_format_is_learned_by_partial_credit_and_nobody_stops_it() -> None:
    floor = [step(wrong("a", malformed=128), wrong("b", malformed=128))] * 2
    assert found(history([*floor, step(mixed("a", correct=0), wrong("b", malformed=128))])) is None


def test_what_a_rescue_samples_is_not_held_against_the_format() -> None:
    stuck = wrong("a", kind="collapsed", text="No", text_share=1.0, own_share=1.0)
    noise = wrong("a", temperature=2.0, malformed=120)
    assert cause(history([step(stuck), step(noise), step(noise)])) == "collapsed"


COLD = {"sampling": {"temperature": 0.3}, "signal": {"rescue": False}}


def test_temperature_trap_is_told_from_a_collapse_by_the_policys_own_distribution() -> None:
    trapped = wrong("a", temperature=0.3, kind="collapsed", text="No", text_share=1.0, own_share=0.6)
    diagnosis = found(history([step(trapped, solved("b"))] * 3, config(**COLD)))
    assert diagnosis is not None and diagnosis.cause == "temperature_trap"
    assert "sampling.temperature 0.3" in diagnosis.verdict and "at most 60%" in diagnosis.verdict
    assert cause(history([step(replace(trapped, own_share=0.99))] * 3, config(**COLD))) == "collapsed"
    assert cause(history([step(replace(trapped, text_share=0.2))] * 3, config(**COLD))) == "out_of_reach"
    hot = replace(trapped, temperature=1.5)
    assert cause(history([step(trapped), step(hot), step(hot)], config(sampling=COLD["sampling"]))) == "collapsed"


def test_collapsed_on_wrong_answers() -> None:
    stuck = [
        step(wrong(name, kind="collapsed", text="No", text_share=0.99, own_share=0.99), solved("z")) for name in "ab"
    ]
    diagnosis = found(history([*stuck, *stuck]))
    assert diagnosis is not None and diagnosis.cause == "collapsed"
    assert "2 of 2 unsolved prompts, for example 'No'" in diagnosis.verdict
    assert "best_reward" not in diagnosis.advice
    own = found(history([*stuck, *stuck], config(task=OWN_TASK)))
    assert own is not None and "task.best_reward: -0.5" in own.advice


def test_constant_reward() -> None:
    same = [step(wrong("a"), wrong("b"))] * 3
    diagnosis = found(history(same, config(task=OWN_TASK)), NOTHING_PROVED)
    assert diagnosis is not None and diagnosis.cause == "constant_reward"
    assert "768 completions, 5 different answers" in diagnosis.verdict and "mine.py:exact" in diagnosis.advice
    assert cause(history(same), Trial(question_matters=True, answer_pays=False)) == "constant_reward"
    assert cause(history(same), Trial(question_matters=True, answer_pays=True)) == "out_of_reach"
    graded = [step(wrong("a"), wrong("b", reward_low=-0.3, reward_high=-0.3))] * 3
    assert cause(history(graded), NOTHING_PROVED) == "out_of_reach"
    cut = [step(wrong("a", truncated=128, answers=frozenset()))] * 3
    assert cause(history(cut), NOTHING_PROVED) == "truncated"


def test_out_of_reach_tells_the_chances_of_larger_groups() -> None:
    diagnosis = found(history([step(wrong("a"), wrong("b"), solved("c"))] * 3))
    assert diagnosis is not None and diagnosis.cause == "out_of_reach"
    assert "none of 768 completions of 2 unsolved prompts are right" in diagnosis.verdict
    for size in (128, 256, 512, 1024):
        assert f"{chance_of_right(0, 768, size):.1%} in a group of {size}" in diagnosis.verdict


ANYTHING_GOES = Trial(question_matters=False, answer_pays=None)


def test_unverifiable_reward() -> None:
    at_once = replace(history([]), reached=True)
    assert cause(at_once, ANYTHING_GOES) == "unverifiable_reward"
    assert cause(at_once) is None
    assert cause(at_once, NOTHING_PROVED) is None
    assert cause(history([step(wrong("a"))] * 3), ANYTHING_GOES) == "unverifiable_reward"


def test_the_reward_function_is_asked_only_where_there_is_reason() -> None:
    def asked() -> Trial:
        raise AssertionError

    learning = [step(mixed("a", reward=0.01 * n), now=0.01 * n) for n in range(20)]
    assert diagnose(history(learning), asked) is None


def flat(updates: int, **fields: Any) -> list[Step]:
    return [step(mixed("a", **fields), mixed("b", **fields), now=-0.2)] * updates


def test_learning_rate_too_low() -> None:
    unmoved = flat(UNMOVED_UPDATES, drift=0.001)
    diagnosis = found(history(unmoved, config(training={"learning_rate": 1e-9})))
    assert diagnosis is not None and diagnosis.cause == "learning_rate_too_low"
    assert "10 updates at training.learning_rate 1e-09" in diagnosis.verdict
    assert diagnosis.advice == "Raise training.learning_rate to 1e-05."


def test_learning_rate_is_not_too_low() -> None:
    assert found(history(flat(UNMOVED_UPDATES - 1, drift=0.001))) is None
    assert found(history(flat(UNMOVED_UPDATES, drift=0.5))) is None  # it moves; the reward may follow
    rising = [step(mixed("a", reward=0.1 * n, drift=0.001), now=0.0) for n in range(UNMOVED_UPDATES)]
    assert found(history(rising)) is None
    warming = config(
        training={"learning_rate": 1e-5, "lr_scheduler_type": "constant_with_warmup", "warmup_steps": 20}
    )
    assert found(history(flat(UNMOVED_UPDATES, drift=0.001), warming)) is None
    once = [step(mixed(f"p{n}", drift=0.0), mixed(f"q{n}", drift=0.0)) for n in range(UNMOVED_UPDATES)]
    assert found(history(once)) is None  # every prompt was asked once


def test_a_run_at_15_of_16_is_left_alone() -> None:
    """The last prompt is sure of its wrong answer and hardly moves; the others have moved."""
    others = [replace(solved(f"p{n}"), drift=1.5) for n in range(15)]
    stuck = mixed("p15", reward=-0.49, correct=1, drift=0.01)
    assert found(history([step(*others, stuck, now=0.9)] * 60)) is None
    sure = [replace(solved(f"p{n}"), drift=0.0) for n in range(15)]  # the others were right from the start
    once = step(*sure, replace(stuck, drift=0.7), now=0.9)  # a rare right answer became likelier
    assert found(history([once, *[step(*sure, stuck, now=0.9)] * 60])) is None


def falling(rewards: Sequence[float], **last: Any) -> list[Step]:
    """One prompt, whose reward is as given; `last` are the fields of the group in the last three steps."""
    count = len(rewards)
    return [
        step(mixed("a", reward=reward, **(last if index >= count - 3 else {})), now=reward)
        for index, reward in enumerate(rewards)
    ]


DOWN = (-0.2, 0.0, 0.1, -0.9, -0.95, -0.95)


def test_learning_rate_too_high() -> None:
    broken = found(history(falling(DOWN, malformed=120), config(training={"learning_rate": 0.01})))
    assert broken is not None and broken.cause == "learning_rate_too_high"
    assert "fell from 0.100 to -0.950 in 6 updates" in broken.verdict
    assert "94% of the completions are cut off or malformed" in broken.verdict
    assert broken.advice == "Start again with training.learning_rate: 0.001."
    assert cause(history(falling(DOWN, drift=20.0))) == "learning_rate_too_high"

    exploding = [replace(each, grad_norm=100.0 if n >= 3 else 1.0) for n, each in enumerate(falling(DOWN))]
    assert cause(history(exploding)) == "learning_rate_too_high"
    far = [replace(each, kl=5.0) for each in falling(DOWN)]
    assert cause(history(far)) == "learning_rate_too_high"
    dead = [*falling(DOWN[:4]), *[step(wrong("a"), now=-0.9)] * 3]
    assert cause(history(dead)) == "learning_rate_too_high"
    lost = (-0.2, 0.2, 0.8, 0.1, 0.1, 0.1)
    assert cause(history(falling(lost, malformed=120))) == "learning_rate_too_high"


def test_one_update_can_break_a_policy() -> None:
    noise = step(wrong("a", malformed=128, reward_mean=-1.0, reward_low=-1.0, reward_high=-1.0), now=-1.0)
    start = step(mixed("a", reward=0.2), now=0.2)
    broken = found(history([start, *[noise] * 3], config(training={"learning_rate": 0.3})))
    assert broken is not None and broken.cause == "learning_rate_too_high"
    assert "to -1.000 in 1 update at training.learning_rate 0.3, and no group has learned since" in broken.verdict
    assert cause(history([start, *[noise] * 2])) is None
    assert cause(history([noise] * 3)) == "format_never_met"  # it never was better


def test_learning_rate_is_not_too_high() -> None:
    assert found(history(falling(DOWN))) is None  # it fell, and still learns
    dip = (-0.2, 0.0, 0.0, -0.3, -0.35, -0.3)
    assert found(history(falling(dip, malformed=120))) is None
    assert found(history(falling((*DOWN, 0.1), malformed=120))) is None  # it came back
    rising = [replace(each, grad_norm=10.0**n) for n, each in enumerate(falling((-0.2, 0.0, 0.1, 0.2, 0.3, 0.4)))]
    assert found(history(rising)) is None


def test_a_reward_that_stands_still_very_long() -> None:
    near_misses = [step(mixed("a", correct=0, reward_high=-0.1), now=-0.2)] * PLATEAU_STEPS
    assert cause(history(near_misses)) == "out_of_reach"
    assert cause(history(near_misses), ANYTHING_GOES) == "unverifiable_reward"
    assert found(history(near_misses[1:])) is None
    assert found(history([step(mixed("a", correct=1), now=-0.2)] * PLATEAU_STEPS)) is None
    assert found(history(near_misses, config(run={"target_reward": None}))) is None
    rising = [step(mixed("a", correct=0, reward=0.01 * n), now=0.0) for n in range(PLATEAU_STEPS)]
    assert found(history(rising)) is None


def large(prompts: int, **run: Any) -> Past:
    settings = config(run={"max_steps": None} | run, sampling={"prompts_per_step": 2})
    return replace(history([], settings), prompts=prompts)


def test_data_too_large_by_steps() -> None:
    diagnosis = found(large(17, max_steps=4))
    assert diagnosis is not None and diagnosis.cause == "data_too_large"
    assert "run.max_steps 4 allows 8 rollouts" in diagnosis.verdict and "measured on 17 prompts" in diagnosis.verdict
    assert "at least 17 steps" in diagnosis.advice
    assert found(large(16, max_steps=4)) is None
    assert found(large(1000, max_steps=4, evaluation_prompts=16)) is None
    assert found(large(17, max_steps=4, target_reward=None)) is None


def test_data_too_large_by_seconds() -> None:
    """Steps of 4.2 seconds."""
    settings = config(run={"max_steps": None, "max_seconds": 42.0}, sampling={"prompts_per_step": 2})
    three = history([step(mixed("a"), mixed("b"))] * 3, settings, exhausted=False)
    assert cause(replace(three, prompts=41)) == "data_too_large"
    assert found(replace(three, prompts=40)) is None
    two = history([step(mixed("a"), mixed("b"))] * 2, settings, exhausted=False)
    assert found(replace(two, prompts=41)) is None


def test_a_silence_that_rare_right_answers_explain_is_none() -> None:
    rare = [step(mixed("a", samples=8, correct=1)), *[step(wrong("a", samples=8))] * 9]
    silent = [step(wrong("a", samples=8))] * 3  # one right of 80 before: none of 24 is no wonder
    lucky = step(mixed("a", samples=8, correct=1))
    assert found(history([*rare, lucky, *silent])) is None
    assert cause(history([*rare, lucky, *silent * 10])) == "out_of_reach"
    alike = step(wrong("a", samples=8, kind="collapsed", text_share=1.0))  # more of the same brings nothing
    assert cause(history([*rare, lucky, *[alike] * 3])) == "collapsed"
    rescue = [step(wrong("a", samples=1))]  # and one that lasts longer than a rescue is none, however rare they are
    assert found(history([*rare, lucky, *rescue * 12])) is None
    assert cause(history([*rare, lucky, *rescue * 13])) == "out_of_reach"
    often = [step(mixed("a", samples=8, correct=4))] * 3
    assert cause(history([*often, *silent])) == "out_of_reach"


def test_a_constant_reward_of_one_s_own_is_told_whatever_is_left_to_try() -> None:
    same = [step(wrong("a"), wrong("b"))] * 3
    own = config(task=OWN_TASK)
    still = history(same, own, exhausted=False)
    assert cause(still, Trial(question_matters=True, answer_pays=False)) == "constant_reward"
    assert cause(still, Trial(question_matters=True, answer_pays=True)) is None  # it would tell a right answer
    assert cause(history(same[:2], own, exhausted=False), NOTHING_PROVED) is None
    assert cause(history(same, exhausted=False), NOTHING_PROVED) is None


def test_a_reward_that_once_differed_is_not_constant() -> None:
    same = [step(wrong("a"), wrong("b"))] * 3
    once = step(mixed("a"), wrong("b"))
    assert cause(history([once, *same], config(task=OWN_TASK)), NOTHING_PROVED) == "out_of_reach"


def test_what_a_rescue_samples_is_not_held_against_the_learning_rate() -> None:
    noise = wrong("b", temperature=2.0, malformed=512, samples=512)
    steps = [replace(each, groups=(*each.groups, noise)) for each in falling(DOWN)]
    before = [replace(each, groups=each.groups[:1]) for each in steps[:3]]
    assert found(history([*before, *steps[3:]])) is None


def test_warm_up_is_counted_in_updates() -> None:
    warming = config(
        training={"learning_rate": 1e-5, "lr_scheduler_type": "constant_with_warmup", "warmup_steps": 10}
    )
    idle = step(wrong("a", drift=0.0), wrong("b", drift=0.0), now=-0.2)
    unmoved = [*flat(20, drift=0.001), *[idle] * 2]
    assert found(history(unmoved, warming, exhausted=False)) is None
    assert cause(history([*unmoved, *flat(1, drift=0.001)], warming)) == "learning_rate_too_low"


def test_a_fall_is_measured_by_the_rewards_that_a_users_function_gives() -> None:
    small = [
        step(mixed("a", reward=reward, reward_low=0.0, reward_high=0.1, drift=20.0), now=reward)
        for reward in (0.05, 0.06, 0.06, 0.01, 0.0, 0.0)
    ]
    small = [replace(each, reward_start=0.05) for each in small]
    assert cause(history(small, config(task=OWN_TASK))) == "learning_rate_too_high"
    nothing = step(mixed("a", reward=0.0, reward_low=0.0, reward_high=0.0, drift=20.0), now=0.0)
    assert cause(history([replace(nothing, reward_start=0.0)] * 6, config(task=OWN_TASK))) is None
