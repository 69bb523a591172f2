"""Could this run learn? What stands in its way, found as a run finds its own causes (`trainer.diagnosis.causes`)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from configs.schema import Config, WithoutBest
from launch.check.forecast import RANGE, Forecast
from launch.check.look import Look, count, share
from launch.memory_plan import shortages
from rewards.task import Task
from trainer.diagnosis.causes import TIMED_STEPS, data_too_large, unverifiable_reward, why_silent
from trainer.diagnosis.history import History, Step, of_group
from trainer.diagnosis.sentences import Cause, Diagnosis, tell
from trainer.run import Run
from trainer.scored import ScoredGroup
from trainer.signal.chances import chance_of_right
from trainer.signal.kinds import can_spread, classify, teaches
from trainer.signal.right_and_wrong import Chosen, RewardsSeen, without_best

MOST = 0.5
"""Share of the completions from which on a flaw is worth a warning."""

LEARNING_RATES = 1e-7, 1e-3
"""Below, AdamW hardly moves a weight in a run's time; above, it undoes in a few steps what pre-training made."""


@dataclass(frozen=True)
class Finding:
    """sentence: what is the matter, with numbers. advice: one sentence, with settings. fatal: the run could not
    learn."""

    cause: Cause | Literal["memory"]
    sentence: str
    advice: str
    fatal: bool


EXAMPLE_FINDING = Finding(
    cause="truncated",
    sentence="No group could learn: 97 % of 2,048 completions were cut off at sampling.max_completion_length 4.",
    advice="Raise sampling.max_completion_length to 16, or ask for shorter answers with task.system_prompt.",
    fatal=True,
)


def find(look: Look, config: Config, task: Task, forecast: Forecast) -> tuple[Finding, ...]:
    """Everything that stands in the way, what the run could not learn with first; empty if nothing does."""
    run = Run(config, task.prompts, task.best_reward, dtype="float32")  # whatever it is: nothing depends on it here
    mode = chosen(look, config).mode
    history = _history(look, run, mode)
    found = [*_silence(look, run, history), *_too_large(run, history, forecast)]
    if not any(finding.fatal for finding in found):
        found += [*_flaws(look, config, mode), *_learning_rate(config), *_memory(config, forecast)]
    return tuple(sorted(found, key=lambda finding: not finding.fatal))


def chosen(look: Look, config: Config) -> Chosen:
    """What the run would train groups without a right answer on, by the rewards that were seen."""
    groups = [group for groups in (look.groups, *look.others.values()) for group in groups]
    best_reward = config.task.best_reward
    seen = RewardsSeen().after(groups, best_reward)
    if config.task.dataset and len(seen.different) == 1 and not look.trial.answer_pays:
        return Chosen(
            "train", "All rewards so far are one, and no answer in the data is known to earn another."
        )  # it would not last
    return without_best(config, seen, best_reward)


def learns_from(scored: ScoredGroup, config: Config, best_reward: float, mode: WithoutBest) -> bool:
    """Whether the run would train on such a group, by its rewards or, after some rollouts without a right answer, to
    spread it over its answers."""
    kind = classify(scored, best_reward)
    by_rewards = teaches(scored, kind, best_reward, mode, config.sampling.temperature)
    return by_rewards or can_spread(scored, kind, best_reward, mode)


def _history(look: Look, run: Run, mode: WithoutBest) -> History:
    """One step with all that was seen, at the temperatures that the run could reach."""
    config, best = run.config, run.best_reward
    hotter = [
        group
        for temperature, groups in sorted(look.others.items())
        if config.signal.rescue and temperature > config.sampling.temperature
        for group in groups
    ]
    seen = tuple(
        of_group(
            run.numbers[group.group.prompt.id],
            group,
            classify(group, best),
            learns_from(group, config, best, mode),
            drift=None,
        )
        for group in (*look.groups, *hotter)
    )
    mean = sum(group.reward_mean for group in look.groups) / len(look.groups)
    step = Step(
        seen,
        updated=False,
        reward_start=mean,
        reward_now=mean,
        grad_norm=0.0,
        kl=0.0,
        seconds=0.0,
        seconds_total=0.0,
        exhausted=True,
    )
    history = History.start(len(run.prompts), config.sampling.temperature).after(step)
    return replace(history, reached=not look.unsolved)


def _silence(look: Look, run: Run, history: History) -> Iterator[Finding]:
    """No group to learn from, or a reward that would be learnt without its being right."""
    if look.unsolved and history.silent_steps:
        yield _finding(tell(why_silent(run, history, look.trial), run.config), fatal=True)
    elif found := unverifiable_reward(run, history, look.trial):
        diagnosis = tell(found, run.config)
        if not look.unsolved:
            yield _finding(diagnosis, fatal=True)
            return
        yield Finding(
            diagnosis.cause,
            "The reward does not depend on the question: different answers earn the best reward, "
            f"{run.best_reward:g}, as answers to any of the prompts.",
            diagnosis.advice,
            # Without answers in the data it may be meant so: a style can be learnt.
            fatal=any(prompt.columns.keys() - {"id"} for prompt in run.prompts),
        )


def _too_large(run: Run, history: History, forecast: Forecast) -> Iterator[Finding]:
    """A budget that would not do even if steps were as fast as they may be."""
    fast = replace(history, steps=TIMED_STEPS, fastest=forecast.seconds_per_step * RANGE[0])
    if found := data_too_large(run, fast):
        yield _finding(tell(found, run.config), fatal=True)


def _flaws(look: Look, config: Config, mode: WithoutBest) -> Iterator[Finding]:
    """What will make a run that can learn slow to begin."""
    unsolved, sampling = look.unsolved, config.sampling
    if not unsolved:
        return
    samples = sum(group.group.num_generations for group in unsolved)
    if (truncated := share(unsolved, "truncated")) >= MOST:
        yield Finding(
            "truncated",
            f"{truncated:.0%} of {samples:,} completions were cut off at sampling.max_completion_length "
            f"{sampling.max_completion_length}.",
            f"If answers need more room, raise it to {4 * sampling.max_completion_length}.",
            fatal=False,
        )
    if (malformed := share(unsolved, "malformed")) >= MOST:
        yield Finding(
            "format_never_met",
            f"{malformed:.0%} of {samples:,} completions are no answer in the task's format.",
            "The run can learn the format; examples (task.few_shot, or in the prompts) would spare it that.",
            fatal=False,
        )
    if all(classify(group, config.task.best_reward) == "collapsed" for group in unsolved):
        yield Finding(
            "temperature_trap",
            f"All {len(unsolved)} unsolved groups are (nearly) one wrong text at sampling.temperature "
            f"{sampling.temperature:g}; only rescues, at higher temperatures, can learn.",
            "Set sampling.temperature to what is recommended above.",
            fatal=False,
        )
    elif mode != "train" and not any(count(group, "correct") for group in unsolved):
        size = unsolved[0].group.num_generations
        yield Finding(
            "out_of_reach",
            f"No right answer is among {samples:,} completions of {len(unsolved)} unsolved prompts: the chance of "
            f"one in the next {size} is {chance_of_right(0, samples, size):.1%}, in the next {4 * size} "
            f"{chance_of_right(0, samples, 4 * size):.1%}.",
            "Training begins with what is closest; easier questions or examples (task.few_shot) bring right answers "
            "sooner.",
            fatal=False,
        )


def _learning_rate(config: Config) -> Iterator[Finding]:
    rate, (low, high) = config.training.learning_rate, LEARNING_RATES
    if rate < low:
        yield Finding(
            "learning_rate_too_low",
            f"training.learning_rate {rate:g} is below {low:g}: the policy would hardly move.",
            "1e-6 to 5e-5 is usual.",
            fatal=False,
        )
    if rate > high:
        yield Finding(
            "learning_rate_too_high",
            f"training.learning_rate {rate:g} is above {high:g}: the policy may fall apart in a few steps.",
            "1e-6 to 5e-5 is usual.",
            fatal=False,
        )


def _memory(config: Config, forecast: Forecast) -> Iterator[Finding]:
    plan, available = forecast.plan, forecast.available
    for shortage in shortages(plan, config):
        yield Finding("memory", shortage.sentence, shortage.advice, fatal=False)
    if available is not None and plan.total > available:
        yield Finding(
            "memory",
            f"The run may need {plan.total / 2**30:.1f} GiB, and {available / 2**30:.1f} GiB are free.",
            "Lower training.micro_batch_tokens or engine.kv_cache_gib, set training.gradient_checkpointing: true, or "
            "take a smaller model.",
            fatal=False,
        )


def _finding(diagnosis: Diagnosis, fatal: bool) -> Finding:
    return Finding(diagnosis.cause, diagnosis.verdict, diagnosis.advice, fatal)
