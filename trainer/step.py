"""One step: the way from the curriculum to the next policy, in one direction.

    RunState                 what the run knows (state.py)
       │ weight_sync.sync    to engines that hold another version, which confirm it    ports.py
       │ curriculum.take     which prompts, how hot                                    signal/curriculum.py
       ▼
    Rollout                  one for each prompt
       │ generator.sample    on all engines at once; waits for the slowest             ports.py
       ▼
    Group                    distinct completions with counts
       │ scorer.score        a verdict for each distinct completion                    ports.py
       ▼
    ScoredGroup
       │ treat               what it is trained on: rewards, replay, spread, nothing   signal/treatment.py
       ▼
    Treated ── Lesson        advantages
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

Nothing overlaps: while engines sample the ranks wait, and the other way round. Every wait has a limit, which
the ports know.

The one thing that a step changes besides the state is the ranks' weights, at its end: whatever fails before leaves
state and ranks as they were, and what comes after needs nothing but the state.
"""

from collections.abc import Callable
from dataclasses import replace

from generation.engine import SampleRequest, seed_of
from rewards.prompts import SAME_REWARD
from trainer.diagnosis import alarm, causes, trial
from trainer.diagnosis.sentences import tell
from trainer.evaluate import evaluate
from trainer.evaluation import EvaluatedOn
from trainer.happened import Happened, Times
from trainer.metrics import measure
from trainer.ports import Ports
from trainer.run import Run
from trainer.signal.overlong import soft_punished
from trainer.signal.rollout import Rollout
from trainer.signal.treatment import is_stuck, treat
from trainer.state import RunState
from trainer.update.forest import pack

Elapsed = Callable[[], float]
"""Seconds of the run so far."""


def step(run: Run, state: RunState, ports: Ports, elapsed: Elapsed) -> Happened:
    """Everything that takes time, and how long it took. Raises whatever a port raises."""
    config, number = run.config, state.step + 1
    start = elapsed()
    ports.weight_sync.sync(state.policy_version)
    synced = elapsed()
    rollouts = state.curriculum.take(config, config.sampling.prompts_per_step)
    groups = ports.generator.sample([_request(run, state, rollout, number) for rollout in rollouts])
    sampled = elapsed()
    scored = ports.scorer.score(groups)
    judged = elapsed()
    limit, cache = config.sampling.max_completion_length, config.training.soft_punish_cache
    punished = [soft_punished(group, limit, cache) for group in scored]
    treated = treat(run, state.without_best(run).mode, rollouts, punished, state.memory)
    lessons = [one.lesson for one in treated if one.lesson is not None]
    batch = pack(lessons, config.training.ranks, config.training.micro_batch_tokens) if lessons else None
    base = config.sampling.temperature
    drifts = tuple(
        state.drift.of(rollout.prompt, group) if group.temperature == base else None
        for rollout, group in zip(rollouts, groups, strict=True)
    )
    report = ports.learner.update(batch) if batch else None
    return Happened(
        step=number,
        treated=treated,
        scored=tuple(scored),
        drifts=drifts,
        tree_tokens=batch.tree_tokens if batch else 0,
        dense_tokens=batch.dense_tokens if batch else 0,
        report=report,
        times=Times(start, synced, sampled, judged, elapsed()),
    )


def logged(run: Run, state: RunState, happened: Happened, ports: Ports) -> RunState:
    """Hands the step to the logger; the state after it, with an alarm if there is reason for one."""
    if happened.report and (text := alarm.mismatch(happened.report.logprob_gap, run.dtype)):
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


def _request(run: Run, state: RunState, rollout: Rollout, step: int) -> SampleRequest:
    """What to sample; more, and not the likeliest only, where the prompt needs a rescue."""
    config, prompt = run.config, run.prompts[rollout.prompt]
    # Where a right answer is known, none needs to be searched for.
    searching = is_stuck(run, state.without_best(run).mode, rollout) and rollout.prompt not in state.memory.answers
    hotter = rollout.temperature > config.sampling.temperature
    return SampleRequest(
        prompt,
        config.sampling.num_generations * (config.signal.rescue_generations if searching else 1),
        rollout.temperature,
        seed_of(config.seed, step, prompt.id),
        config.signal.rescue_min_p if hotter else 0.0,
    )


def _may_reach_target(run: Run, state: RunState) -> bool:
    """Whether the latest group of every evaluated prompt says that the target may be reached."""
    target, measured = run.config.run.target_reward, len(run.evaluated)
    if target is None or run.config.run.target_on == "eval":
        return False
    latest: list[float] = state.rewards.latest[:measured].tolist()
    return sum(latest) >= (target - SAME_REWARD) * measured
