"""Diagnosis: why a run cannot learn, in one sentence, with what to change.

Every cause has a judge, a small function of what the run has seen. A wrong verdict stops a healthy run, a late one
costs some steps: so each judge asks for more than its own symptom.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rewards.prompts import SAME_REWARD
from trainer.diagnosis.history import History, Seen, Step
from trainer.diagnosis.trial import Trial
from trainer.signal.chances import chance_of_right
from trainer.signal.kinds import COLLAPSED_SHARE

Cause = Literal[
    "temperature_trap",
    "format_never_met",
    "truncated",
    "out_of_reach",
    "collapsed",
    "constant_reward",
    "unverifiable_reward",
    "learning_rate_too_low",
    "learning_rate_too_high",
    "data_too_large",
]

SILENT_STEPS = 3
"""Steps in a row in which no group learned, until a run with nothing left to try is stopped."""

ACCIDENT = 0.01
"""A silence that is likelier than this may be one."""

MOST = 0.5
"""Share of the samples, or of the prompts, from which on something is the rule."""

ENDED = 0.25
"""Share of the completions that must not have been cut off, to tell what answers look like."""

OWN_TEMPERATURE = 1.0
"""The model's own distribution."""

MANY_ANSWERS = 4
"""Different finished answers, from which on one reward for all of them is no accident of the policy."""

UNMOVED = 0.02
"""Nats per completion: probabilities are within 2 % of what they were. Five times as much, after ten updates, was the
beginning of slow simulated runs that got far in two hundred."""

UNMOVED_UPDATES, UNMOVED_VISITS = 10, 3
"""Updates of the run, and visits of every prompt, before an unmoved policy is held against the learning rate."""

STILL_STEPS, STILL_VISITS = 100, 10
"""The same for a policy that moves while the reward stands still. Healthy runs stand still for tens of steps."""

RISEN = 2.0
"""Standard errors from which on a reward has risen."""

FALLEN = 0.15
"""Share of the rewards' range that a run must fall below its start, to have fallen clearly."""

LOST = 0.5
"""Or the share of what it had won at its best that it must lose, after at least `FALLEN` was won."""

EXPLODED = 10.0
"""Times the gradient norm of the first updates; or nats per completion that the policy has moved."""

KL_EXPLODED = 1.0
"""Nats per token."""

HALF = 0.5
"""Share of the evaluated prompts that the budget must let a run visit."""

TIMED_STEPS = 3
"""Steps after which the seconds of a step are known."""

LARGER = (1, 2, 4, 8)
"""Times the group size, for which chances are told."""


@dataclass(frozen=True)
class Diagnosis:
    """verdict: one sentence, with numbers. advice: one sentence, with the settings to change."""

    cause: Cause
    verdict: str
    advice: str


EXAMPLE_DIAGNOSIS = Diagnosis(
    cause="truncated",
    verdict="No group has learned for 3 steps: 97 % of 2,048 completions were cut off at "
    "sampling.max_completion_length 4.",
    advice="Raise sampling.max_completion_length to 16, or ask for shorter answers with task.system_prompt.",
)

HoldTrial = Callable[[], Trial]
"""Asks the reward function (`trainer.diagnosis.trial.hold`); called only where there is reason to."""


def diagnose(history: History, trial: HoldTrial) -> Diagnosis | None:
    """Why the run cannot learn; None while it can, or may. The first of these that fits:

    data_too_large; unverifiable_reward where nothing was left to learn before the first update; where no group learns
    and nothing is left to try, `why_silent`; else learning_rate_too_high, learning_rate_too_low, and out_of_reach or
    unverifiable_reward for a reward that has stood still very long.
    """
    if found := data_too_large(history):
        return found
    if history.reached and not history.steps:
        return unverifiable_reward(history, trial())
    if is_silent(history):
        return why_silent(history, trial())
    if found := learning_rate_too_high(history) or learning_rate_too_low(history):
        return found
    return stands_still(history, trial)


def is_silent(history: History) -> bool:
    """No group learned for `SILENT_STEPS`, nothing is left to try, and it is no accident."""
    return history.exhausted and history.silent_steps >= SILENT_STEPS and not _by_chance(history)


def _by_chance(history: History) -> bool:
    """Whether the right answers that the unsolved, wide prompts gave before are too rare to be missed yet."""
    names = {seen.prompt_id for seen in history.unsolved if seen.kind == "floor"}
    base, last = history.config.sampling.temperature, len(history.steps) - history.silent_steps
    before, since = (
        [seen for step in steps for seen in step.groups if seen.prompt_id in names and seen.temperature == base]
        for steps in (history.steps[:last], history.steps[last:])
    )
    correct, samples = sum(seen.correct for seen in before), sum(seen.samples for seen in before)
    return correct > 0 and (1 - correct / samples) ** sum(seen.samples for seen in since) > ACCIDENT


def why_silent(history: History, trial: Trial) -> Diagnosis:
    """Why no group learns: the first cause that fits, from the reward function over the policy to the task."""
    return (
        unverifiable_reward(history, trial)
        or learning_rate_too_high(history)
        or constant_reward(history, trial)
        or format_never_met(history)
        or truncated(history)
        or temperature_trap(history)
        or collapsed(history)
        or out_of_reach(history)
    )


def unverifiable_reward(history: History, trial: Trial) -> Diagnosis | None:
    """Several different answers earn the best reward, whatever the question."""
    if trial.question_matters is not False:
        return None
    opening = "Nothing was left to learn before the first update" if history.reached else _opening(history)
    return Diagnosis(
        "unverifiable_reward",
        f"{opening}, and the reward does not depend on the question: different answers earn the best reward, "
        f"{history.best_reward:g}, as answers to any of the prompts.",
        "Let the reward function compare the completion with a right answer that comes from elsewhere, such as a "
        "column of the data set.",
    )


def constant_reward(history: History, trial: Trial) -> Diagnosis | None:
    """Many finished answers and one reward for all of them, which the data's own answers would have earned too."""
    silent = history.unsolved
    answers = set().union(*(seen.answers for seen in silent))
    rewards = {round(seen.reward_high, 6) for seen in silent} | {round(seen.reward_low, 6) for seen in silent}
    telling = len(rewards) == 1 and len(answers) >= MANY_ANSWERS and not _rule(_of_one_text(history), silent)
    other = any(seen.reward_high - seen.reward_low > SAME_REWARD for step in history.steps for seen in step.groups)
    if trial.answer_pays or not telling or other or _share(silent, "malformed") > 0:
        return None
    also = "" if trial.answer_pays is None else ", and would have earned it with any column of the data as the answer"
    return Diagnosis(
        "constant_reward",
        f"{_opening(history)}: all {_samples(silent)} completions, {len(answers)} different answers among them, "
        f"earned the same reward, {min(rewards):g}{also}.",
        f"Call {_reward_function(history)} with a right and with a wrong answer and see that it tells them apart; a "
        "task without right answers needs a reward with more than one value.",
    )


def truncated(history: History) -> Diagnosis | None:
    """Most completions were cut off."""
    silent = history.unsolved
    share, limit = _share(silent, "truncated"), history.config.sampling.max_completion_length
    if share < MOST:
        return None
    return Diagnosis(
        "truncated",
        f"{_opening(history)}: {share:.0%} of {_samples(silent)} completions were cut off at "
        f"sampling.max_completion_length {limit}.",
        f"Raise sampling.max_completion_length to {4 * limit}, or ask for shorter answers with task.system_prompt"
        f"{_or_examples(history)}.",
    )


def format_never_met(history: History) -> Diagnosis | None:
    """Most of the completions that came to an end are no answers at all; those that did not would hardly be."""
    silent = history.unsolved
    share, cut = _share(silent, "malformed"), _share(silent, "truncated")
    if 1 - cut < ENDED or share < MOST * (1 - cut):
        return None
    also = f" and {cut:.0%} were cut off" if cut else ""
    return Diagnosis(
        "format_never_met",
        f"{_opening(history)}: {share:.0%} of {_samples(silent)} completions are no answer in the task's "
        f"format{also}, the most frequent one being {_quoted(max(silent, key=lambda seen: seen.text_share).text)}.",
        f"Say what an answer looks like in task.system_prompt{_or_examples(history)}.",
    )


def temperature_trap(history: History) -> Diagnosis | None:
    """Groups are of one text because they were sampled below the model's own temperature, and only there."""
    sampling, one_text = history.config.sampling, _of_one_text(history)
    own = [seen for seen in one_text if seen.own_share < COLLAPSED_SHARE]
    if history.hottest >= OWN_TEMPERATURE or not _rule(one_text, history.unsolved) or not _rule(own, one_text):
        return None
    mean = float(np.mean([seen.own_share for seen in own]))
    return Diagnosis(
        "temperature_trap",
        f"{_opening(history)}: at sampling.temperature {sampling.temperature:g} the completions of {len(one_text)} "
        f"of {len(history.unsolved)} unsolved prompts are all alike, though the model itself would give that text at "
        f"most {mean:.0%} of the time.",
        "Set sampling.temperature: 1.0, and signal.rescue: true for prompts that are still alike then.",
    )


def collapsed(history: History) -> Diagnosis | None:
    """Groups are of one text, and it is not right."""
    config, one_text = history.config, _of_one_text(history)
    if not _rule(one_text, history.unsolved):
        return None
    best = max(seen.reward_high for seen in one_text)
    advice = "Start again with " + (
        f"training.learning_rate: {config.training.learning_rate / 2:g} and training.beta: 0.01, so that the policy "
        "does not become sure before it is right"
        if config.signal.rescue
        else "signal.rescue: true, which samples such prompts at higher temperatures"
    )
    if config.task.dataset:
        advice += f"; or set task.best_reward: {best:g}, if that is the best your function gives"
    return Diagnosis(
        "collapsed",
        f"{_opening(history)}: the policy has collapsed onto one wrong answer for {len(one_text)} of "
        f"{len(history.unsolved)} unsolved prompts, for example {_quoted(one_text[0].text)}, and temperatures up to "
        f"{history.hottest:g} brought no right one.",
        f"{advice}.",
    )


def out_of_reach(history: History) -> Diagnosis:
    """No right answer was sampled, in any of the silent steps at `sampling.temperature`."""
    names = {seen.prompt_id for seen in history.unsolved}
    base, steps = history.config.sampling.temperature, history.steps[len(history.steps) - history.silent_steps :]
    visits = [seen for step in steps for seen in step.groups if seen.prompt_id in names and seen.temperature == base]
    return _out_of_reach(history, tuple(visits) or history.unsolved, _opening(history))


def learning_rate_too_high(history: History) -> Diagnosis | None:
    """The reward has fallen clearly for `SILENT_STEPS`, and the updates or the policy have broken.

    Broken is: gradient norm, KL or policy shift exploded; most completions cut off or malformed, which they were not
    at first; or no group learns any more and nothing is left to try.
    """
    steps = history.steps
    updates = [step for step in steps if step.updated]
    early = len(updates) < SILENT_STEPS or len(steps) < 2 * SILENT_STEPS
    if not updates or (early and not is_silent(history)):  # a single update can break a policy for good
        return None
    gains = [step.reward_now - step.reward_start for step in steps]
    seen = [seen for step in steps for seen in step.groups]
    # What a user's function gives at best may be far below what it was said to give.
    best = max(each.reward_high for each in seen)
    best = best if history.config.task.dataset else max(best, history.best_reward)
    span = best - min(each.reward_low for each in seen)
    now, peak = max(gains[-SILENT_STEPS:]), max(gains)
    if span <= SAME_REWARD or (now > -FALLEN * span and (peak < FALLEN * span or now > (1 - LOST) * peak)):
        return None
    broken = _broken(history, updates)
    if broken is None:
        return None
    last, rate = steps[-1], history.config.training.learning_rate
    return Diagnosis(
        "learning_rate_too_high",
        f"The mean reward fell from {last.reward_start + max(peak, 0.0):.3f} to {last.reward_now:.3f} in "
        f"{len(updates)} update{'s' if len(updates) > 1 else ''} at training.learning_rate {rate:g}, and {broken}.",
        f"Start again with training.learning_rate: {rate / 10:g}.",
    )


def learning_rate_too_low(history: History) -> Diagnosis | None:
    """Groups learn, and yet neither the policy nor the reward has moved in `UNMOVED_UPDATES`."""
    training = history.config.training
    updates = [step for step in history.steps if step.updated]
    enough = len(updates) >= max(UNMOVED_UPDATES, 2 * training.warmup_steps + 1)
    # The largest, of solved prompts too: those that the policy is sure of hardly move in any run.
    shift = max((seen.shift or 0.0 for step in history.steps for seen in step.groups), default=0.0)
    if not enough or shift > UNMOVED:
        return None
    if not _visited(history, UNMOVED_VISITS) or _has_risen(history.steps):
        return None
    rate, last = training.learning_rate, history.steps[-1]
    return Diagnosis(
        "learning_rate_too_low",
        f"{len(updates)} updates at training.learning_rate {rate:g} moved the policy by at most {shift:.2g} "
        f"nats per completion and left the mean reward at {last.reward_now:.3f}.",
        f"Raise training.learning_rate to {max(1e-5, 10 * rate):g}.",
    )


def stands_still(history: History, trial: HoldTrial) -> Diagnosis | None:
    """There is a target, and a moving policy came no closer to it in `STILL_STEPS`, without a single right answer."""
    window = history.steps[-STILL_STEPS:]
    names = {seen.prompt_id for seen in history.unsolved}
    visits = tuple(seen for step in window for seen in step.groups if seen.prompt_id in names)
    if history.config.run.target_reward is None or len(window) < STILL_STEPS or not visits:
        return None
    if len(visits) < STILL_VISITS * len(names) or len(history.latest) < history.prompts:
        return None
    if any(seen.correct for seen in visits) or _has_risen(window):
        return None
    opening = f"The mean reward has stood still at {window[-1].reward_now:.3f} for {STILL_STEPS} steps"
    if trial().question_matters is False:
        return unverifiable_reward(history, trial())
    return _out_of_reach(history, visits, opening)


def data_too_large(history: History) -> Diagnosis | None:
    """There is a target, and the steps that the limits allow cannot visit half of the prompts it is measured on."""
    run, each = history.config.run, history.config.sampling.prompts_per_step
    measured = min(history.prompts, run.evaluation_prompts)
    limits = [] if run.max_steps is None else [(run.max_steps, f"run.max_steps {run.max_steps}")]
    if run.max_seconds is not None and len(history.steps) >= TIMED_STEPS:
        pace = min(step.seconds for step in history.steps)  # the first ones are the slowest
        steps = len(history.steps) + math.ceil(max(0.0, run.max_seconds - history.seconds) / max(pace, 1e-9))
        limits.append((steps, f"run.max_seconds {run.max_seconds:g} at {pace:.2g} s a step"))
    if run.target_reward is None or history.reached or not limits:
        return None
    steps, limit = min(limits)
    if steps * each >= HALF * measured:
        return None
    return Diagnosis(
        "data_too_large",
        f"The limit of {limit} allows {steps * each} visits to prompts, {each} in each of {steps} steps, and the "
        f"target is measured on {measured} prompts, most of which would never be asked.",
        f"Give the run at least {-(-2 * measured // each)} steps, which is two visits to every prompt, or make the "
        f"data set smaller{'' if history.config.task.dataset else ' with task.size'}.",
    )


def _out_of_reach(history: History, seen: tuple[Seen, ...], opening: str) -> Diagnosis:
    correct, samples = sum(each.correct for each in seen), sum(each.samples for each in seen)
    size = history.config.sampling.num_generations
    chances = [
        f"{chance_of_right(correct, samples, times * size):.1%} in a group of {times * size}" for times in LARGER
    ]
    prompts = len({each.prompt_id for each in seen})
    return Diagnosis(
        "out_of_reach",
        f"{opening}: {correct or 'none'} of {samples:,} completions of {prompts} unsolved prompts "
        f"{'is' if correct == 1 else 'are'} right, so the chance of a right one is {', '.join(chances[:-1])} and "
        f"{chances[-1]}.",
        f"Make right answers likelier with easier questions or a stronger model{_or_examples(history)}, or give "
        "close answers a part of the reward.",
    )


def _broken(history: History, updates: list[Step]) -> str | None:
    """What the updates have broken."""
    recent, first = history.steps[-SILENT_STEPS:], history.steps[:SILENT_STEPS]
    norm, norm_before = (float(np.median([s.grad_norm for s in part])) for part in (updates[-3:], updates[:3]))
    if norm > EXPLODED * norm_before > 0:
        return f"the gradient norm grew from {norm_before:.2g} to {norm:.2g}"
    kl = float(np.median([step.kl for step in updates[-3:]]))
    if kl > KL_EXPLODED:
        return f"the KL divergence from the untrained model is {kl:.2g} nats per token"
    shifts = [seen.shift for step in recent for seen in step.groups if seen.shift is not None]
    if shifts and np.mean(shifts) > EXPLODED:
        return f"the policy has moved by {np.mean(shifts):.2g} nats per completion"
    spoilt, spoilt_before = _spoilt(history, recent), _spoilt(history, first)
    if spoilt >= MOST > spoilt_before:
        return f"{spoilt:.0%} of the completions are cut off or malformed, where {spoilt_before:.0%} were at first"
    return "no group has learned since" if is_silent(history) else None


def _spoilt(history: History, steps: tuple[Step, ...]) -> float:
    """Share of the completions that are no answers, of visits that were no rescues."""
    base = history.config.sampling.temperature
    groups = tuple(seen for step in steps for seen in step.groups if seen.temperature == base)
    return _share(groups, "malformed") + _share(groups, "truncated")


def _has_risen(steps: tuple[Step, ...]) -> bool:
    """Whether the reward at the end of the window is above that at its start: prompt by prompt, the means of the
    prompt's visits in the window's second half against those in its first."""
    middle = len(steps) // 2
    halves = [_by_prompt(part) for part in (steps[:middle], steps[middle:])]
    shared = halves[0].keys() & halves[1].keys()
    if not shared:
        return False
    rise = error = 0.0
    for name in shared:
        (before, variance_before), (after, variance_after) = halves[0][name], halves[1][name]
        rise, error = rise + after - before, error + variance_before + variance_after
    return rise > RISEN * math.sqrt(error)


def _by_prompt(steps: tuple[Step, ...]) -> dict[str, tuple[float, float]]:
    """Prompt id -> mean reward, and the variance of that mean; of visits that were no rescues."""
    visits: dict[str, list[Seen]] = {}
    base = min(seen.temperature for step in steps for seen in step.groups)
    for seen in (seen for step in steps for seen in step.groups if seen.temperature == base):
        visits.setdefault(seen.prompt_id, []).append(seen)
    return {
        name: (
            float(np.mean([seen.reward_mean for seen in found])),
            sum(seen.reward_std**2 / seen.samples for seen in found) / len(found) ** 2,
        )
        for name, found in visits.items()
    }


def _visited(history: History, times: int) -> bool:
    """Whether every unsolved prompt was visited so often, and every prompt of the data set at all."""
    counts = [history.visits.get(seen.prompt_id, 0) for seen in history.unsolved]
    return len(history.latest) == history.prompts and min(counts, default=0) >= times


def _of_one_text(history: History) -> list[Seen]:
    return [seen for seen in history.unsolved if seen.text_share >= COLLAPSED_SHARE]


def _rule(some: list[Seen], of: list[Seen] | tuple[Seen, ...]) -> bool:
    return bool(some) and len(some) >= MOST * len(of)


def _share(groups: tuple[Seen, ...], outcome: Literal["malformed", "truncated"]) -> float:
    samples = sum(seen.samples for seen in groups)
    return sum(getattr(seen, outcome) for seen in groups) / samples if samples else 0.0


def _samples(groups: tuple[Seen, ...]) -> str:
    return f"{sum(seen.samples for seen in groups):,}"


def _opening(history: History) -> str:
    steps = history.silent_steps
    return f"No group has learned for {steps} steps" if steps > 1 else "No group could learn"


def _or_examples(history: History) -> str:
    """Further advice, where there is something to advise."""
    task = history.config.task
    if task.dataset:
        return ", or show examples in the data set's prompts"
    return "" if task.few_shot else ", or show examples with task.few_shot: 3"


def _reward_function(history: History) -> str:
    return history.config.task.reward or "the reward function"


def _quoted(text: str) -> str:
    shown = text if len(text) <= 40 else f"{text[:37]}..."
    return repr(shown)
