"""One step: the way from the curriculum to the next policy, in one direction.

    RunState                 what the run knows (state.py)
       │ weight_sync.sync    to engines that hold another version, which confirm it    ports.py
       │ curriculum.take     which prompts, how hot                                    signal/curriculum.py
       ▼
    Rollout                  one for each prompt
       │ generator.sample    on all engines at once, or ahead; waits for the slowest   ports.py
       ▼
    Group                    distinct completions with counts
       │ scorer.score        a verdict for each distinct completion                    ports.py
       ▼
    ScoredGroup
       │ treat               what it is trained on: rewards, replay, spread, nothing   signal/treatment.py
       ▼
    Treated ── Lesson        advantages
       │ thinned             no more in the loss than an update may cost               signal/thinning.py
       │ pack                token trees, balanced over the ranks                      update/forest.py
       ▼
    Batch                    none if no group teaches: the next is skipped, the version stays
       │ learner.update      on all ranks; waits for the slowest                       ports.py
       ▼
    Happened                 all bookkeeping follows from it (happened.py)
       │ state.after         curriculum, memory, rewards, history, drift               state.py
       │ logger.step         metrics and groups                                        metrics.py
       ▼
    RunState ── evaluate     if the latest groups say that the target may be reached   evaluation.py
             ── diagnose     whether the run can still learn                           diagnosis/

While engines sample the ranks wait, and the other way round; groups that are whole may be scored meanwhile. With
`sampling.ahead` engines sample the next step while ranks update: `step` has them begin as soon as the groups are
treated, `collected` waits for them, and the state holds what they sampled. Between two steps nobody is at work in
either case. Every wait has a limit, which the ports know.

The one thing that a step changes besides the state is the ranks' weights, at its end: whatever fails before leaves
state and ranks as they were, and what comes after needs nothing but the state.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from generation.engine import SampleRequest, seed_of
from rewards.prompts import SAME_REWARD
from trainer.diagnosis import alarm, causes, trial
from trainer.diagnosis.sentences import tell
from trainer.evaluate import evaluate
from trainer.evaluation import EvaluatedOn
from trainer.happened import Happened, Times
from trainer.metrics import measure
from trainer.ports import Collect, Ports
from trainer.run import Run
from trainer.signal.advantages import Lesson
from trainer.signal.overlong import soft_punished
from trainer.signal.rollout import Rollout, Sampled
from trainer.signal.step_size import step_size
from trainer.signal.thinning import thinned
from trainer.signal.treatment import Treated, is_stuck, treat
from trainer.state import RunState
from trainer.update.forest import Batch, pack

Elapsed = Callable[[], float]
"""Seconds of the run so far."""


@dataclass(frozen=True)
class Begun:
    """What engines have begun to sample for the next step."""

    rollouts: tuple[Rollout, ...]
    collect: Collect


def step(run: Run, state: RunState, ports: Ports, elapsed: Elapsed) -> tuple[Happened, Begun | None]:
    """Everything that takes time, and how long it took; with `sampling.ahead`, also what is to be `collected`. Raises
    whatever a port raises."""
    config = run.config
    start = elapsed()
    ports.weight_sync.sync(state.policy_version)
    synced = elapsed()
    if state.ahead:
        rollouts = tuple(one.rollout for one in state.ahead)
        groups = tuple(one.group(run.prompts) for one in state.ahead)
    else:
        rollouts, requests = _asked(run, state)
        groups = ports.generator.sample(requests)
    sampled = elapsed()
    scored = ports.scorer.score(groups)
    judged = elapsed()
    limit, cache = config.sampling.max_completion_length, config.training.soft_punish_cache
    punished = [soft_punished(group, limit, cache) for group in scored]
    treated = treat(run, state.without_best(run).mode, rollouts, punished, state.memory)
    begun = _begin(run, state.with_groups(run, treated, scored), ports) if config.sampling.ahead else None
    batch = packed(run, state, treated)
    base = config.sampling.temperature
    drifts = tuple(
        state.drift.of(rollout.prompt, group) if group.temperature == base else None
        for rollout, group in zip(rollouts, groups, strict=True)
    )
    report = ports.learner.update(batch) if batch else None
    updated = elapsed()
    happened = Happened(
        step=state.step + 1,
        policy_version=state.policy_version,
        treated=treated,
        scored=tuple(scored),
        drifts=drifts,
        tree_tokens=batch.tree_tokens if batch else 0,
        dense_tokens=batch.dense_tokens if batch else 0,
        report=report,
        times=Times(start, synced, sampled, judged, updated, collected=updated),
    )
    return happened, begun


def packed(run: Run, state: RunState, treated: Sequence[Treated]) -> Batch | None:
    """What the ranks get of the step's groups; None if no group teaches. state: before the step."""
    training = run.config.training
    lessons = [_thinned(run, state, one.lesson) for one in treated if one.lesson is not None]
    if not lessons:
        return None
    first, last = state.history.first_norms, state.history.last_norms
    return replace(
        pack(lessons, training.ranks, training.micro_batch_tokens),
        step_size=step_size(treated, first, last, training.max_grad_norm),
    )


def collected(
    state: RunState, happened: Happened, begun: Begun | None, elapsed: Elapsed
) -> tuple[RunState, Happened]:
    """The state after a step with the groups of the next, where those were sampled ahead; waits for them."""
    if begun is None:
        return state, happened
    groups = begun.collect(state.policy_version)
    ahead = tuple(map(Sampled.of, begun.rollouts, groups))
    return replace(state, ahead=ahead), replace(happened, times=replace(happened.times, collected=elapsed()))


def logged(run: Run, state: RunState, happened: Happened, ports: Ports) -> RunState:
    """Hands the step to the logger; the state after it, with an alarm if there is reason for one."""
    report = happened.report
    # An older policy than the trainer's differs from it without anything being wrong.
    lora, quantized = run.config.training.lora_rank is not None, alarm.quantized(run.config.engine.vllm)
    if (
        report
        and not happened.policy_lag
        and (text := alarm.mismatch(report.logprob_gap, run.dtype, lora, quantized))
    ):
        state = warn(state, ports, "logprob_gap", text)
    metrics = measure(run.config, happened, state.curriculum.prompts_solved, run.reward_names)
    ports.logger.step(metrics, happened.treated)
    return state


def told(run: Run, state: RunState, ports: Ports, before: RunState | None = None) -> None:
    """Says what groups without a right answer are trained on, if it is not what it was `before`."""
    chosen = state.without_best(run)
    if (
        run.config.task.dataset
        and not run.config.signal.without_best
        and (before is None or chosen.mode != before.without_best(run).mode)
    ):
        ports.logger.note(chosen.sentences)


def judged(run: Run, state: RunState, ports: Ports) -> RunState:
    """The state with an evaluation, where it is time or the target may be reached, and a diagnosis. Judged again it
    is the same."""
    every = run.config.run.eval_steps
    if every and state.step % every == 0 and state.telling.step != state.step:
        state = evaluated(run, state, ports, f"at step {state.step}", "eval" if state.held_out else "train")
    if _may_reach_target(run, state) and state.latest.step != state.step:
        state = evaluated(run, state, ports, f"at step {state.step}", "train")
    return diagnosed(run, state, ports)


def evaluated(run: Run, state: RunState, ports: Ports, label: str, on: EvaluatedOn) -> RunState:
    """The state with an evaluation of the policy as it is."""
    held_out = on == "eval"
    ports.logger.phase(f"evaluating {label}{', on held-out prompts' if held_out else ''}")
    ports.weight_sync.sync(state.policy_version)
    prompts = run.held_out if held_out else run.evaluated
    latest = evaluate(run, prompts, ports.generator, ports.scorer, label, state.step)
    ports.logger.evaluation(on, latest)
    if state.held_out and held_out:
        return replace(state, held_out=replace(state.held_out, latest=latest))
    return replace(state, latest=latest, rewards=state.rewards.evaluated(latest))


def diagnosed(run: Run, state: RunState, ports: Ports, in_hindsight: bool = False) -> RunState:
    """The state with a diagnosis, if there is one, for which the reward function is tried where there is reason to.

    in_hindsight: no group ever learned, and none will. Raises RewardError: the reward function fails.
    """
    held = state.trial

    def hold() -> trial.Trial:
        """One for a silence: it may be dear."""
        nonlocal held
        if held is None:
            groups = [one.scored(run.prompts) for one in state.exhibits]
            held = trial.hold(groups, run.prompts, run.best_reward, ports.scorer.score)
        return held

    history = state.history
    evidence = causes.why_silent(run, history, hold()) if in_hindsight else causes.find(run, history, hold)
    diagnosis = tell(evidence, run.config) if evidence else None
    state = replace(state, trial=held, diagnosis=diagnosis)
    if diagnosis and state.step and not (in_hindsight or run.config.signal.stop_without_signal):
        state = warn(state, ports, diagnosis.cause, f"{diagnosis.verdict} {diagnosis.advice}")
    return state


def warn(state: RunState, ports: Ports, name: str, text: str) -> RunState:
    """The state with the alarm, which is shown if it is the first of its name."""
    warned = state.with_alarm(name, text)
    if warned is not state:
        ports.logger.alarm(text)
    return warned


def _begin(run: Run, state: RunState, ports: Ports) -> Begun:
    """Has the engines sample the step after the state, whose update may be still to come."""
    rollouts, requests = _asked(run, state)
    return Begun(rollouts, ports.generator.begin(requests))


def _asked(run: Run, state: RunState) -> tuple[tuple[Rollout, ...], list[SampleRequest]]:
    """The rollouts of the step after the state, and what to sample for each."""
    rollouts = state.curriculum.take(run.config, run.config.sampling.prompts_per_step)
    return rollouts, [_request(run, state, rollout) for rollout in rollouts]


def _request(run: Run, state: RunState, rollout: Rollout) -> SampleRequest:
    """What to sample; more, and not the likeliest only, where the prompt needs a rescue."""
    config, prompt = run.config, run.prompts[rollout.prompt]
    # Where a right answer is known, none needs to be searched for.
    searching = is_stuck(run, state.without_best(run).mode, rollout) and rollout.prompt not in state.memory.answers
    hotter = rollout.temperature > config.sampling.temperature
    return SampleRequest(
        prompt,
        rollout.num_generations * (config.signal.rescue_generations if searching else 1),
        rollout.temperature,
        seed_of(config.seed, state.step + 1, prompt.id),
        config.signal.rescue_min_p if hotter else 0.0,
        rollout.expected_tokens,
    )


def _thinned(run: Run, state: RunState, lesson: Lesson) -> Lesson:
    """The lesson with no more in the loss than an update may cost, and as much weight as that of a full group."""
    lesson = lesson.standing_for(run.config.sampling.num_generations)
    seed = seed_of(run.config.seed, state.step + 1, lesson.scored.group.prompt.id, "thinning")
    return thinned(lesson, run.config.training.max_distinct_completions, seed)


def _may_reach_target(run: Run, state: RunState) -> bool:
    """Whether the latest group of every evaluated prompt says that the target may be reached."""
    target, measured = run.config.run.target_reward, len(run.evaluated)
    if target is None or run.config.run.target_on == "eval":
        return False
    latest: list[float] = state.rewards.latest[:measured].tolist()
    return sum(latest) >= (target - SAME_REWARD) * measured
