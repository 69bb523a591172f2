"""Sentences: from evidence to a verdict and an advice, one sentence each, with the settings to change."""

from dataclasses import dataclass
from functools import singledispatch
from typing import Literal

from configs.schema import Config
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
    OutOfReach,
    TemperatureTrap,
    Truncated,
    UnverifiableReward,
)
from trainer.diagnosis.history import MOST_ANSWERS, RECENT_STEPS
from trainer.signal.chances import chance_of_right

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

LARGER = (1, 2, 4, 8)
"""Times the group size, for which chances are told."""

QUOTED = 40
"""Characters of a completion that are told at most."""


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


@singledispatch
def tell(evidence: Evidence, config: Config) -> Diagnosis:
    """The evidence in words."""
    raise TypeError(f"There are no words for {evidence!r}.")


@tell.register
def _(evidence: UnverifiableReward, config: Config) -> Diagnosis:
    opening = (
        "Nothing was left to learn before the first update" if evidence.at_start else _opening(evidence.silent_steps)
    )
    return Diagnosis(
        "unverifiable_reward",
        f"{opening}, and the reward does not depend on the question: different answers earn the best reward, "
        f"{evidence.best_reward:g}, as answers to any of the prompts.",
        "Let the reward function compare the completion with a right answer that comes from elsewhere, such as a "
        "column of the data set.",
    )


@tell.register
def _(evidence: ConstantReward, config: Config) -> Diagnosis:
    also = ", and would have earned it with any column of the data as the answer" if evidence.tried else ""
    more = " or more" if evidence.answers >= MOST_ANSWERS else ""
    return Diagnosis(
        "constant_reward",
        f"{_opening(evidence.silent_steps)}: all {evidence.samples:,} completions, {evidence.answers}{more} "
        f"different answers among them, earned the same reward, {evidence.reward:g}{also}.",
        f"Call {', '.join(config.task.reward) or 'the reward function'} with a right and with a wrong answer and "
        "see that it tells them apart; a task without right answers needs a reward with more than one value.",
    )


@tell.register
def _(evidence: Truncated, config: Config) -> Diagnosis:
    limit = config.sampling.max_completion_length
    return Diagnosis(
        "truncated",
        f"{_opening(evidence.silent_steps)}: {evidence.share:.0%} of {evidence.samples:,} completions were cut off "
        f"at sampling.max_completion_length {limit}.",
        f"Raise sampling.max_completion_length to {4 * limit}, or ask for shorter answers with task.system_prompt"
        f"{_or_examples(config)}.",
    )


@tell.register
def _(evidence: FormatNeverMet, config: Config) -> Diagnosis:
    also = f" and {evidence.truncated:.0%} were cut off" if evidence.truncated else ""
    example = "" if evidence.text is None else f", the most frequent one being {_quoted(evidence.text)}"
    return Diagnosis(
        "format_never_met",
        f"{_opening(evidence.silent_steps)}: {evidence.malformed:.0%} of {evidence.samples:,} completions are no "
        f"answer in the task's format{also}{example}.",
        f"Say what an answer looks like in task.system_prompt{_or_examples(config)}.",
    )


@tell.register
def _(evidence: TemperatureTrap, config: Config) -> Diagnosis:
    return Diagnosis(
        "temperature_trap",
        f"{_opening(evidence.silent_steps)}: at sampling.temperature {config.sampling.temperature:g} the completions "
        f"of {evidence.prompts} of {evidence.unsolved} unsolved prompts are all alike, though the model itself would "
        f"give that text at most {evidence.own_share:.0%} of the time.",
        "Set sampling.temperature: 1.0, and signal.rescue: true for prompts that are still alike then.",
    )


@tell.register
def _(evidence: Collapsed, config: Config) -> Diagnosis:
    advice = "Start again with " + (
        f"training.learning_rate: {config.training.learning_rate / 2:g} and training.beta: 0.01, so that the policy "
        "does not become sure before it is right"
        if config.signal.rescue
        else "signal.rescue: true, which samples such prompts at higher temperatures"
    )
    if config.task.dataset:
        advice += f"; or set task.best_reward: {evidence.best:g}, if that is the best your function gives"
    example = "" if evidence.text is None else f", for example {_quoted(evidence.text)}"
    return Diagnosis(
        "collapsed",
        f"{_opening(evidence.silent_steps)}: the policy has collapsed onto one wrong answer for {evidence.prompts} "
        f"of {evidence.unsolved} unsolved prompts{example}, and temperatures up to {evidence.hottest:g} brought no "
        "right one.",
        f"{advice}.",
    )


@tell.register
def _(evidence: OutOfReach, config: Config) -> Diagnosis:
    correct, samples, size = evidence.correct, evidence.samples, config.sampling.num_generations
    chances = [
        f"{chance_of_right(correct, samples, times * size):.1%} in a group of {times * size}" for times in LARGER
    ]
    opening = _opening(evidence.silent_steps)
    if evidence.plateau is not None:
        opening = f"The mean reward has stood still at {evidence.plateau:.3f} for {RECENT_STEPS} steps"
    return Diagnosis(
        "out_of_reach",
        f"{opening}: {correct or 'none'} of {samples:,} completions of {evidence.prompts} unsolved prompts "
        f"{'is' if correct == 1 else 'are'} right, so the chance of a right one is {', '.join(chances[:-1])} and "
        f"{chances[-1]}.",
        f"Make right answers likelier with easier questions or a stronger model{_or_examples(config)}, or give "
        "close answers a part of the reward.",
    )


@tell.register
def _(evidence: LearningRateTooHigh, config: Config) -> Diagnosis:
    updates, rate = evidence.updates, config.training.learning_rate
    return Diagnosis(
        "learning_rate_too_high",
        f"The mean reward fell from {evidence.peak:.3f} to {evidence.now:.3f} in {updates} "
        f"update{'s' if updates > 1 else ''} at training.learning_rate {rate:g}, and {_broken(evidence.breakage)}.",
        f"Start again with training.learning_rate: {rate / 10:g}.",
    )


@tell.register
def _(evidence: LearningRateTooLow, config: Config) -> Diagnosis:
    rate = config.training.learning_rate
    return Diagnosis(
        "learning_rate_too_low",
        f"{evidence.updates} updates at training.learning_rate {rate:g} moved the policy by at most "
        f"{evidence.drift:.2g} nats per completion and left the mean reward at {evidence.reward:.3f}.",
        f"Raise training.learning_rate to {max(1e-5, 10 * rate):g}.",
    )


@tell.register
def _(evidence: DataTooLarge, config: Config) -> Diagnosis:
    run, each = config.run, config.sampling.prompts_per_step
    if evidence.pace is None:
        limit = f"run.max_steps {run.max_steps}"
    else:
        limit = f"run.max_seconds {run.max_seconds:g} at {evidence.pace:.2g} s a step"
    return Diagnosis(
        "data_too_large",
        f"The limit of {limit} allows {evidence.steps * each} rollouts, {each} prompts in each of {evidence.steps} "
        f"steps, and the target is measured on {evidence.prompts} prompts, most of which would never be asked.",
        f"Give the run at least {-(-2 * evidence.prompts // each)} steps, which is two rollouts of every prompt, or "
        f"make the data set smaller{'' if config.task.dataset else ' with task.size'}.",
    )


def _broken(breakage: Breakage) -> str:
    match breakage:
        case GradientExploded(before, after):
            return f"the gradient norm grew from {before:.2g} to {after:.2g}"
        case KLExploded(kl):
            return f"the KL divergence from the untrained model is {kl:.2g} nats per token"
        case DriftExploded(drift):
            return f"the policy has moved by {drift:.2g} nats per completion"
        case CompletionsSpoilt(before, after):
            return f"{after:.0%} of the completions are cut off or malformed, where {before:.0%} were at first"
        case _:
            return "no group has learned since"


def _opening(silent_steps: int) -> str:
    return f"No group has learned for {silent_steps} steps" if silent_steps > 1 else "No group could learn"


def _or_examples(config: Config) -> str:
    """Further advice, where there is something to advise."""
    if config.task.dataset:
        return ", or show examples in the data set's prompts"
    return "" if config.task.few_shot else ", or show examples with task.few_shot: 3"


def _quoted(text: str) -> str:
    return repr(text if len(text) <= QUOTED else f"{text[: QUOTED - 3]}...")
