"""Causes: why a run cannot learn, found in what it has seen.

Every cause has a small function from the history to its evidence. A wrong verdict stops a healthy run, a late one
costs some steps: so each asks for more than its own symptom.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from rewards.prompts import SAME_REWARD
from trainer.diagnosis.evidence import (
    Breakage,
    Collapsed,
    CompletionsSpoilt,
    ConstantReward,
    DataTooLarge,
    DriftExploded,
    Evidence,
    FormatNeverMet,
    GradientExploded,
    KLExploded,
    LearningRateTooHigh,
    LearningRateTooLow,
    NothingLearns,
    OutOfReach,
    TemperatureTrap,
    Truncated,
    UnverifiableReward,
)
from trainer.diagnosis.history import FEW_STEPS, RECENT_STEPS, History, Recent, StepSums
from trainer.diagnosis.trial import Trial
from trainer.run import Run
from trainer.signal.kinds import COLLAPSED_SHARE

SILENT_STEPS = FEW_STEPS
"""Steps in a row in which no group learned, until a run with nothing left to try is stopped."""

ACCIDENT = 0.01
"""A silence that is likelier than this may be one."""

TRUNCATED_SHARE = 0.5
"""Of the samples, that were cut off."""

MALFORMED_SHARE = 0.5
"""Of the completions that ended, that are no answers."""

ENDED_SHARE = 0.25
"""Of the completions, that must not have been cut off, to tell what answers look like."""

ONE_TEXT_SHARE = 0.5
"""Of the unsolved prompts, whose groups are of one text."""

OWN_TEMPERATURE = 1.0
"""The model's own distribution."""

FEW_ANSWERS = 4
"""Different finished answers, from which on one reward for all of them is no accident of the policy."""

UNMOVED = 0.02
"""Nats per completion: probabilities are within 2 % of what they were. Five times as much, after ten updates, was the
beginning of slow simulated runs that got far in two hundred."""

UNMOVED_UPDATES, UNMOVED_ROLLOUTS = 10, 3
"""Updates of the run, and rollouts of every prompt, before an unmoved policy is held against the learning rate."""

PLATEAU_STEPS, PLATEAU_ROLLOUTS = RECENT_STEPS, 10
"""The same for a policy that moves while the reward stands still. Healthy runs stand still for tens of steps."""

RISEN = 2.0
"""Standard errors from which on a reward has risen."""

FALLEN = 0.15
"""Share of the rewards' range that a run must fall below its start, to have fallen clearly."""

LOST = 0.5
"""Or the share of what it had won at its best that it must lose, after at least `FALLEN` was won."""

EXPLODED_NORM = 10.0
"""Times the gradient norm of the first updates."""

EXPLODED_DRIFT = 10.0
"""Nats per completion."""

EXPLODED_KL = 1.0
"""Nats per token."""

SPOILT_SHARE = 0.5
"""Of the completions, that are cut off or malformed and were not at first."""

ASKED_SHARE = 0.5
"""Of the evaluated prompts, that the budget must let a run ask."""

TIMED_STEPS = 3
"""Steps after which the seconds of a step are known."""

HoldTrial = Callable[[], Trial]
"""Asks the reward function (`trainer.diagnosis.trial.hold`); called only where there is reason to."""


def find(run: Run, history: History, trial: HoldTrial) -> Evidence | None:
    """Why the run cannot learn; None while it can, or may. The first of these that fits:

    data_too_large; unverifiable_reward where nothing was left to learn before the first update; where no group learns
    and nothing is left to try, `why_silent`; constant_reward; else learning_rate_too_high, learning_rate_too_low, and
    out_of_reach or unverifiable_reward for a plateau.
    """
    if found := data_too_large(run, history):
        return found
    if history.reached and not history.steps:
        return unverifiable_reward(run, history, trial())
    if is_silent(run, history):
        return why_silent(run, history, trial())
    own = run.config.task.dataset is not None
    if own and history.silent_steps >= SILENT_STEPS and not history.rewards_differed:
        return constant_reward(history, trial())  # what is left to try would not change it
    return learning_rate_too_high(run, history) or learning_rate_too_low(run, history) or plateau(run, history, trial)


def is_silent(run: Run, history: History) -> bool:
    """No group learned for `SILENT_STEPS`, nothing is left to try, and it is no accident: one of more steps than a
    rescue has is none."""
    waits = history.silent_steps <= run.config.signal.rescue_visits and _by_chance(history)
    return history.exhausted and history.silent_steps >= SILENT_STEPS and not waits


def why_silent(run: Run, history: History, trial: Trial) -> Evidence:
    """Why no group learns: the first cause that fits, from the reward function over the policy to the task."""
    return (
        unverifiable_reward(run, history, trial)
        or learning_rate_too_high(run, history)
        or constant_reward(history, trial)
        or format_never_met(history)
        or truncated(history)
        or temperature_trap(history)
        or collapsed(history)
        or out_of_reach(history)
    )


def unverifiable_reward(run: Run, history: History, trial: Trial) -> UnverifiableReward | None:
    """Several different answers earn the best reward, whatever the question."""
    if trial.question_matters is not False:
        return None
    return UnverifiableReward(history.silent_steps, history.reached, run.best_reward)


def constant_reward(history: History, trial: Trial) -> ConstantReward | None:
    """Many finished answers and one reward for all of them, which the data's own answers would have earned too."""
    silent, latest = history.unsolved, history.latest
    rewards = np.unique(np.concatenate([latest.reward_low[silent], latest.reward_high[silent]]))
    constant = not history.rewards_differed and len(rewards) > 0 and np.ptp(rewards) <= SAME_REWARD
    if not constant or len(history.answers) < FEW_ANSWERS or latest.malformed[silent].any():
        return None
    if trial.answer_pays or _rule(_of_one_text(history), history):
        return None
    samples = int((history.tally.samples_before + history.tally.samples_since)[silent].sum())
    return ConstantReward(
        history.silent_steps,
        samples,
        len(history.answers),
        reward=round(float(rewards[0]), 6),
        tried=trial.answer_pays is not None,
    )


def truncated(history: History) -> Truncated | None:
    """Most completions were cut off."""
    samples, cut = _samples(history), _share(history, history.latest.truncated)
    return Truncated(history.silent_steps, samples, cut) if cut >= TRUNCATED_SHARE else None


def format_never_met(history: History) -> FormatNeverMet | None:
    """Most of the completions that came to an end are no answers at all; those that did not would hardly be."""
    malformed, cut = (_share(history, column) for column in (history.latest.malformed, history.latest.truncated))
    if 1 - cut < ENDED_SHARE or malformed < MALFORMED_SHARE * (1 - cut):
        return None
    text = _example(history, history.unsolved)
    return FormatNeverMet(history.silent_steps, _samples(history), malformed, cut, text)


def temperature_trap(history: History) -> TemperatureTrap | None:
    """Groups are of one text because they were sampled below the model's own temperature, and only there."""
    one_text, shares = _of_one_text(history), history.latest.own_share
    trapped = one_text[shares[one_text] < COLLAPSED_SHARE]
    own = len(trapped) > 0 and len(trapped) >= ONE_TEXT_SHARE * len(one_text)
    if _hottest(history) >= OWN_TEMPERATURE or not _rule(one_text, history) or not own:
        return None
    return TemperatureTrap(
        history.silent_steps, len(one_text), len(history.unsolved), float(shares[trapped].mean(dtype=np.float64))
    )


def collapsed(history: History) -> Collapsed | None:
    """Groups are of one text, and it is not right."""
    one_text = _of_one_text(history)
    if not _rule(one_text, history):
        return None
    return Collapsed(
        history.silent_steps,
        len(one_text),
        len(history.unsolved),
        text=_example(history, one_text),
        best=round(float(history.latest.reward_high[one_text].max()), 6),
        hottest=_hottest(history),
    )


def out_of_reach(history: History) -> OutOfReach:
    """No right answer was sampled, in any of the silent steps at `sampling.temperature`."""
    silent, tally, latest = history.unsolved, history.tally, history.latest
    asked = silent[tally.samples_since[silent] > 0]
    samples, correct = tally.samples_since, tally.correct_since
    if not len(asked):
        asked, samples, correct = silent, latest.samples.astype(np.int64), latest.correct.astype(np.int64)
    return OutOfReach(
        history.silent_steps, None, int(correct[asked].sum()), int(samples[asked].sum()), prompts=len(asked)
    )


def learning_rate_too_high(run: Run, history: History) -> LearningRateTooHigh | None:
    """The reward has fallen clearly for `SILENT_STEPS`, and the updates or the policy have broken.

    Broken is: gradient norm, KL or log-probability drift exploded; most completions cut off or malformed, which they
    were not at first; or no group learns any more and nothing is left to try.
    """
    early = history.updates < SILENT_STEPS or history.steps < 2 * SILENT_STEPS
    if not history.updates or (early and not is_silent(run, history)):  # a single update can break a policy for good
        return None
    # What a user's function gives at best may be far below what it was said to give.
    best = history.reward_high if run.config.task.dataset else max(history.reward_high, run.best_reward)
    span = best - history.reward_low
    now, peak = max(step.risen for step in history.last), history.peak
    below_start = now <= -FALLEN * span
    below_peak = peak >= FALLEN * span and now <= (1 - LOST) * peak
    if span <= SAME_REWARD or not (below_start or below_peak):
        return None
    breakage = _breakage(run, history)
    if breakage is None:
        return None
    return LearningRateTooHigh(history.reward_start + max(peak, 0.0), history.reward_now, history.updates, breakage)


def learning_rate_too_low(run: Run, history: History) -> LearningRateTooLow | None:
    """Groups learn, and yet neither the policy nor the reward has moved in `UNMOVED_UPDATES`.

    The drift is the largest, of solved prompts too: those that the policy is sure of hardly move in any run.
    """
    enough = history.updates >= max(UNMOVED_UPDATES, 2 * run.config.training.warmup_steps + 1)
    if not enough or history.largest_drift > UNMOVED:
        return None
    rollouts = history.tally.rollouts[history.unsolved]
    asked = history.tally.known.all() and len(rollouts) > 0 and rollouts.min() >= UNMOVED_ROLLOUTS
    if not asked or _has_risen(history.recent, history.steps):
        return None
    return LearningRateTooLow(history.updates, history.largest_drift, history.reward_now)


def plateau(run: Run, history: History, trial: HoldTrial) -> OutOfReach | UnverifiableReward | None:
    """There is a target, and a moving policy came no closer to it in `PLATEAU_STEPS`, without a right answer."""
    if run.config.run.target_reward is None or history.steps < PLATEAU_STEPS or not history.tally.known.all():
        return None
    window = history.recent.since(history.steps - PLATEAU_STEPS)
    silent = history.tally.known & ~history.tally.solved
    asked = silent[window.prompt]
    if not asked.any() or asked.sum() < PLATEAU_ROLLOUTS * silent.sum():
        return None
    if window.correct[asked].any() or _has_risen(window, history.steps):
        return None
    if trial().question_matters is False:
        return unverifiable_reward(run, history, trial())
    return OutOfReach(
        history.silent_steps,
        plateau=history.reward_now,
        correct=0,
        samples=int(window.samples[asked].sum()),
        prompts=len(np.unique(window.prompt[asked])),
    )


def data_too_large(run: Run, history: History) -> DataTooLarge | None:
    """There is a target, and the steps that the limits allow cannot ask half of the prompts it is measured on."""
    limits, measured = run.config.run, min(history.prompts, run.config.run.evaluation_prompts)
    if limits.target_reward is None or history.reached:
        return None
    allowed: list[tuple[int, float | None]] = []
    if limits.max_steps is not None:
        allowed.append((limits.max_steps, None))
    if limits.max_seconds is not None and history.steps >= TIMED_STEPS:
        left = max(0.0, limits.max_seconds - history.seconds)
        pace = history.fastest  # the first ones are the slowest
        allowed.append((history.steps + math.ceil(left / max(pace, 1e-9)), pace))
    steps, paced = min(allowed, key=lambda limit: limit[0], default=(measured, None))
    if steps * run.config.sampling.prompts_per_step >= ASKED_SHARE * measured:
        return None
    return DataTooLarge(steps, measured, paced)


def _by_chance(history: History) -> bool:
    """Whether the right answers that the unsolved, wide prompts gave before are too rare to be missed yet."""
    tally, silent = history.tally, history.unsolved
    wide = silent[history.latest.floor[silent]]
    correct, samples = int(tally.correct_before[wide].sum()), int(tally.samples_before[wide].sum())
    return correct > 0 and (1 - correct / samples) ** int(tally.samples_since[wide].sum()) > ACCIDENT


def _breakage(run: Run, history: History) -> Breakage | None:
    """What the updates have broken."""
    before, after = (float(np.median(norms)) for norms in (history.first_norms, history.last_norms))
    if after > EXPLODED_NORM * before > 0:
        return GradientExploded(before, after)
    kl = float(np.median(history.last_kls))
    if kl > EXPLODED_KL:
        return KLExploded(kl)
    drifts = sum(step.drifts for step in history.last)
    drift = sum(step.drift for step in history.last) / drifts if drifts else 0.0
    if drift > EXPLODED_DRIFT:
        return DriftExploded(drift)
    spoilt_before, spoilt = _spoilt(history.first), _spoilt(history.last)
    if spoilt >= SPOILT_SHARE > spoilt_before:
        return CompletionsSpoilt(spoilt_before, spoilt)
    return NothingLearns() if is_silent(run, history) else None


def _spoilt(steps: Sequence[StepSums]) -> float:
    """Share of the completions that are no answers, of rollouts that were no rescues."""
    samples = sum(step.samples for step in steps)
    return sum(step.spoilt for step in steps) / samples if samples else 0.0


def _has_risen(recent: Recent, steps: int) -> bool:
    """Whether the reward at the end of the rollouts is above that at their start: prompt by prompt, the means of the
    prompt's rollouts (that were no rescues) in the second half of the steps against those in the first.

    steps: the number of the last one.
    """
    first = int(recent.step[0]) if len(recent.step) else steps
    late = recent.step > first - 1 + (steps - first + 1) // 2
    _, prompt = np.unique(recent.prompt, return_inverse=True)
    prompts = int(prompt.max(initial=-1)) + 1

    def half(chosen: NDArray[np.bool_]) -> tuple[NDArray[np.float64], ...]:
        """[prompts] rollouts, sum of rewards, sum of variances."""
        chosen = chosen & recent.base
        columns = np.ones(len(chosen)), recent.reward, recent.variance
        return tuple(np.bincount(prompt[chosen], column[chosen], prompts).astype(np.float64) for column in columns)

    (count_before, before, error_before), (count_after, after, error_after) = half(~late), half(late)
    shared = (count_before > 0) & (count_after > 0)
    if not shared.any():
        return False
    n_before, n_after = count_before[shared], count_after[shared]
    rise = float((after[shared] / n_after - before[shared] / n_before).sum())
    error = float((error_after[shared] / n_after**2 + error_before[shared] / n_before**2).sum())
    return rise > RISEN * math.sqrt(error)


def _of_one_text(history: History) -> NDArray[np.int64]:
    """Numbers of the unsolved prompts whose groups are."""
    silent = history.unsolved
    return silent[history.latest.text_share[silent] >= np.float32(COLLAPSED_SHARE)]


def _rule(some: NDArray[np.int64], history: History) -> bool:
    """Whether these are the rule among the unsolved prompts."""
    return len(some) > 0 and len(some) >= ONE_TEXT_SHARE * len(history.unsolved)


def _share(history: History, column: NDArray[np.int32]) -> float:
    """Of the samples in the unsolved prompts' latest groups."""
    samples = _samples(history)
    return float(column[history.unsolved].sum()) / samples if samples else 0.0


def _samples(history: History) -> int:
    return int(history.latest.samples[history.unsolved].sum())


def _hottest(history: History) -> float:
    """The highest temperature at which an unsolved prompt was sampled since a group last learned."""
    return float(history.tally.hottest[history.unsolved].max(initial=0.0)) or history.temperature


def _example(history: History, numbers: NDArray[np.int64]) -> str | None:
    """The text of the one of the prompts whose group is most of one text."""
    known = [int(number) for number in numbers if int(number) in history.texts]
    shares = history.latest.text_share
    return history.texts[max(known, key=lambda number: shares[number])] if known else None
