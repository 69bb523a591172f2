"""The heart: one step after another, over plain ports."""

import time
from collections.abc import Callable, Mapping, Sequence

from configs.schema import Config
from generation.engine import SampleRequest, seed_of
from rewards.prompts import Prompt
from trainer import evaluation
from trainer.diagnosis import alarm, trial
from trainer.diagnosis.causes import Diagnosis
from trainer.diagnosis.watch import Watch
from trainer.metrics import Evaluation, Result, of_step
from trainer.ports import Ports
from trainer.signal.curriculum import Curriculum, Visit
from trainer.signal.ladder import Ladder
from trainer.signal.overlong import soft_punished
from trainer.signal.self_imitation import Recall
from trainer.signal.treatment import is_stuck, treat
from trainer.update.forest import pack

GAVE_UP = "The run cannot learn (signal.stop_without_signal)."
"""Why a run ended that its diagnosis stopped."""


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
        rescue_visits=signal.rescue_visits,
    )
    recall = Recall()

    def evaluate(label: str) -> Evaluation:
        ports.logger.phase(f"evaluating {label}")
        return evaluation.evaluate(config, prompts, best_reward, ports.generator, ports.scorer, label)

    alarms: dict[str, alarm.Alarm] = {}

    def warn(name: str, text: str) -> None:
        if name not in alarms:
            alarms[name] = alarm.Alarm(name, step, text)
            ports.logger.alarm(text)

    before = latest = evaluate("before training")
    rewards = {result.prompt_id: result.sampled_reward for result in before.prompts}
    watch = Watch(config, prompts, best_reward, ports.scorer.score, rewards)
    if _nothing_to_learn(config, before):
        watch.already_solved(ports.scorer.score(ports.generator.sample(_trial_requests(config, prompts))))
    version = step = 0
    diagnosis = watch.diagnosis()
    stopped = _why_stop(config, latest, diagnosis, version, step, clock() - start)
    while stopped is None:
        step += 1
        times = [clock()]
        visits = curriculum.take(sampling.prompts_per_step)
        requests = [_request(config, by_id, visit, step, visit.prompt_id in recall.answers) for visit in visits]
        groups = ports.generator.sample(requests)
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
        treated = treat(config, scored, visits, recall, best_reward)
        lessons = [treatment.lesson for treatment in treated if treatment.lesson is not None]
        batch = pack(lessons, training.ranks, training.micro_batch_tokens) if lessons else None
        report = ports.learner.update(batch) if batch else None
        times.append(clock())
        if report:
            version += 1
            ports.weight_sync.sync(version)
            if text := alarm.logprob_gap(report.logprob_gap, dtype):
                warn("logprob_gap", text)
        times.append(clock())

        outcomes = {treatment.scored.group.prompt.id: treatment.outcome for treatment in treated}
        curriculum = curriculum.record(outcomes)
        recall = recall.after(scored, best_reward)
        kinds = [treatment.kind for treatment in treated]
        shifts = watch.shifts(groups)
        known = [shift for shift in shifts if shift is not None]
        moved = sum(known) / len(known) if known else 0.0
        metrics = of_step(
            step,
            scored,
            kinds,
            len(lessons),
            sum(treatment.spread for treatment in treated),
            sum(one.recalled or _is_rescue(request, config) for one, request in zip(treated, requests, strict=True)),
            batch,
            report,
            times,
            start,
            len(curriculum.solved),
            moved,
        )
        ports.logger.step(metrics, tuple(zip(scored, kinds, strict=True)))
        learned = {prompt_id for prompt_id, outcome in outcomes.items() if outcome.teaches}
        seconds = metrics.seconds_step, metrics.seconds_total
        watch.step(scored, kinds, learned, shifts, report, rewards, curriculum.exhausted, seconds)
        if _worth_evaluating(config, rewards, prompts):
            latest = evaluate(f"at step {step}")
            rewards |= {result.prompt_id: result.sampled_reward for result in latest.prompts}
        diagnosis = watch.diagnosis()
        if diagnosis and not signal.stop_without_signal:
            warn(diagnosis.cause, f"{diagnosis.verdict} {diagnosis.advice}")
        ended = _why_stop(config, latest, diagnosis, version, step, clock() - start)
        stopped = "Interrupted." if interrupted() else ended

    diagnosis = diagnosis or (watch.hindsight() if version == 0 else None)
    fresh = latest.policy_version == version or interrupted()
    after = latest if fresh else evaluate("after training")
    gave_up = stopped == GAVE_UP
    reached = None if run.target_reward is None else not gave_up and evaluation.reaches(after, run.target_reward)
    if reached and version > 0:
        diagnosis = None
    return Result(
        reached=reached,
        stopped=stopped,
        gave_up=gave_up,
        verdict=diagnosis.verdict if diagnosis else _verdict(stopped, step, before, after),
        diagnosis=diagnosis,
        steps=step,
        seconds=clock() - start,
        policy_version=version,
        before=before,
        after=after,
        alarms=tuple(alarms.values()),
    )


def _request(config: Config, by_id: Mapping[str, Prompt], visit: Visit, step: int, known: bool) -> SampleRequest:
    """What to sample on a visit; more, and not the likeliest only, where the prompt needs a rescue.

    known: whether a right answer can be recalled, so that none needs to be searched for.
    """
    sampling, signal = config.sampling, config.signal
    return SampleRequest(
        by_id[visit.prompt_id],
        sampling.num_generations * (signal.rescue_generations if is_stuck(config, visit) and not known else 1),
        visit.temperature,
        seed_of(config.seed, step, visit.prompt_id),
        signal.rescue_min_p if visit.temperature > sampling.temperature else 0.0,
    )


def _is_rescue(request: SampleRequest, config: Config) -> bool:
    usual = config.sampling
    return request.temperature > usual.temperature or request.num_generations > usual.num_generations


def _nothing_to_learn(config: Config, before: Evaluation) -> bool:
    """Whether the untrained policy is at the target, or right in everything: what a reward that any answer earns
    looks like."""
    target = config.run.target_reward
    solved = before.prompts_solved == len(before.prompts)
    return solved or (target is not None and evaluation.reaches(before, target))


def _trial_requests(config: Config, prompts: Sequence[Prompt]) -> list[SampleRequest]:
    """Groups of a few evaluated prompts, to try the reward function on."""
    sampling = config.sampling
    chosen = prompts[: min(trial.PROMPTS, config.run.evaluation_prompts)]
    return [
        SampleRequest(
            prompt, sampling.num_generations, sampling.temperature, seed_of(config.seed, "trial", prompt.id)
        )
        for prompt in chosen
    ]


def _worth_evaluating(config: Config, rewards: Mapping[str, float], prompts: Sequence[Prompt]) -> bool:
    """Whether the latest group of every evaluated prompt says that the target may be reached."""
    target = config.run.target_reward
    chosen = prompts[: config.run.evaluation_prompts]
    return target is not None and sum(rewards[prompt.id] for prompt in chosen) >= target * len(chosen)


def _why_stop(
    config: Config, latest: Evaluation, diagnosis: Diagnosis | None, version: int, step: int, seconds: float
) -> str | None:
    """Why the run ends before the next step, or None."""
    run = config.run
    target = run.target_reward
    gives_up = diagnosis is not None and config.signal.stop_without_signal
    reaches = target is not None and latest.policy_version == version and evaluation.reaches(latest, target)
    if reaches and not (gives_up and version == 0):
        return f"The target, a mean reward of {target:g}, is reached."
    if gives_up:
        return GAVE_UP
    if run.max_steps is not None and step >= run.max_steps:
        return f"All {run.max_steps} steps (run.max_steps) are done."
    if run.max_seconds is not None and seconds >= run.max_seconds:
        return f"The limit of {run.max_seconds:g} seconds (run.max_seconds) is reached."
    return None


def _verdict(stopped: str, steps: int, before: Evaluation, after: Evaluation) -> str:
    """What came of a run that nothing was wrong with, one sentence."""
    rewards = f"from {before.reward_sampled:.3f} to {after.reward_sampled:.3f}"
    return f"{stopped.removesuffix('.')}: the mean reward went {rewards} in {steps} steps."
