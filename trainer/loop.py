"""The heart: one step after another, over plain ports."""

import time
from collections.abc import Callable, Mapping, Sequence

from configs.schema import Config
from generation.engine import SampleRequest, seed_of
from rewards.prompts import Prompt
from trainer import alarm, evaluation
from trainer.advantages import assign
from trainer.curriculum import Curriculum, Outcome
from trainer.forest import pack
from trainer.metrics import Evaluation, Result, of_step
from trainer.overlong import soft_punished
from trainer.ports import Ports
from trainer.signal import Ladder, classify, teaches


def train(
    config: Config,
    prompts: Sequence[Prompt],
    best_reward: float,
    ports: Ports,
    *,
    dtype: alarm.DType,
    interrupted: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> Result:
    """Trains until the target or a limit of `config.run` is reached.

    dtype: of the weights. interrupted: asked after every step; the run then ends as it is. clock: seconds.
    """
    start = clock()
    sampling, training, signal, run = config.sampling, config.training, config.signal, config.run
    by_id = {prompt.id: prompt for prompt in prompts}
    curriculum = Curriculum(
        prompt_ids=tuple(by_id),
        seed=config.seed,
        ladder=Ladder(
            sampling.temperature,
            signal.rescue_factor,
            signal.rescue_max_temperature if signal.rescue else sampling.temperature,
        ),
        replay_share=signal.replay,
    )

    def evaluate(label: str) -> Evaluation:
        ports.journal.phase(f"evaluating {label}")
        return evaluation.evaluate(config, prompts, best_reward, ports.generator, ports.scorer, label)

    before = latest = evaluate("before training")
    rewards = {result.prompt_id: result.sampled_reward for result in before.prompts}
    alarms: dict[str, alarm.Alarm] = {}
    version = step = 0
    stopped = _why_stop(config, latest, version, step, clock() - start)
    while stopped is None:
        step += 1
        times = [clock()]
        visits = curriculum.take(sampling.prompts_per_step)
        groups = ports.generator.sample(
            [
                SampleRequest(
                    by_id[visit.prompt_id],
                    sampling.num_generations,
                    visit.temperature,
                    seed_of(config.seed, step, visit.prompt_id),
                )
                for visit in visits
            ]
        )
        times.append(clock())
        scored = ports.scorer.score(groups)
        times.append(clock())
        rewards |= {
            group.group.prompt.id: group.reward_mean
            for group in scored
            if group.group.temperature == sampling.temperature
        }
        limit, cache = sampling.max_completion_length, training.soft_punish_cache
        scored = tuple(soft_punished(group, limit, cache) for group in scored)
        kinds = [classify(group, best_reward) for group in scored]
        taught = [teaches(g, k, best_reward, sampling.temperature) for g, k in zip(scored, kinds, strict=True)]
        lessons = [
            lesson
            for lesson, teaching in zip(assign(scored, training), taught, strict=True)
            if teaching and lesson.in_loss.any()
        ]
        batch = pack(lessons, training.ranks, training.micro_batch_tokens) if lessons else None
        report = ports.learner.update(batch) if batch else None
        times.append(clock())
        if report:
            version += 1
            ports.publisher.publish(version)
            text = alarm.logprob_gap(report.logprob_gap, dtype)
            if text and "logprob_gap" not in alarms:
                alarms["logprob_gap"] = alarm.Alarm("logprob_gap", step, text)
                ports.journal.alarm(text)
        times.append(clock())

        outcomes = {
            group.group.prompt.id: Outcome(kind, teaching)
            for group, kind, teaching in zip(scored, kinds, taught, strict=True)
        }
        curriculum = curriculum.record(outcomes)
        ports.journal.step(
            of_step(step, scored, kinds, len(lessons), batch, report, times, start, len(curriculum.solved)),
            tuple(zip(scored, kinds, strict=True)),
        )
        if _worth_evaluating(config, rewards, prompts):
            latest = evaluate(f"at step {step}")
            rewards |= {result.prompt_id: result.sampled_reward for result in latest.prompts}
        stopped = "Interrupted." if interrupted() else _why_stop(config, latest, version, step, clock() - start)

    known = latest.policy_version == version or interrupted()
    after = latest if known else evaluate("after training")
    reached = None if run.target_reward is None else evaluation.reaches(after, run.target_reward)
    return Result(reached, stopped, step, clock() - start, version, before, after, tuple(alarms.values()))


def _worth_evaluating(config: Config, rewards: Mapping[str, float], prompts: Sequence[Prompt]) -> bool:
    """Whether the latest group of every evaluated prompt says that the target may be reached."""
    target = config.run.target_reward
    chosen = prompts[: config.run.evaluation_prompts]
    return target is not None and sum(rewards[prompt.id] for prompt in chosen) >= target * len(chosen)


def _why_stop(config: Config, latest: Evaluation, version: int, step: int, seconds: float) -> str | None:
    """Why the run ends before the next step, or None."""
    run = config.run
    target = run.target_reward
    if target is not None and latest.policy_version == version and evaluation.reaches(latest, target):
        return f"The target, a mean reward of {target:g}, is reached."
    if run.max_steps is not None and step >= run.max_steps:
        return f"All {run.max_steps} steps (run.max_steps) are done."
    if run.max_seconds is not None and seconds >= run.max_seconds:
        return f"The limit of {run.max_seconds:g} seconds (run.max_seconds) is reached."
    return None
