"""The loop: one step after another, over plain ports, until there is a reason to stop."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from generation.engine import SampleRequest, seed_of
from rewards.prompts import Prompt
from trainer.diagnosis import trial
from trainer.ending import Result, Stop, never_learned, result, why_stop
from trainer.evaluate import answer, evaluate, evaluation_of
from trainer.evaluation import EvaluatedOn, Evaluation, reaches
from trainer.ports import Interrupted, Ports
from trainer.run import Run
from trainer.scored import ScoredGroup
from trainer.signal.curriculum import Curriculum
from trainer.signal.group_size import next_size
from trainer.signal.kinds import classify
from trainer.state import RunState
from trainer.step import collected, diagnosed, evaluated, judged, logged, step, told


class Checkpoints(Protocol):
    """Where states go, with the ranks' weights that belong to them."""

    def between_steps(self, state: RunState) -> None:
        """Writes a checkpoint if it is time."""

    def at_end(self, state: RunState) -> None:
        """Writes one, if the ranks live. Raises nothing that could hide why the run ends."""


class NoCheckpoints:
    """For runs that nobody goes on with, as in benchmarks."""

    def between_steps(self, state: RunState) -> None:
        """See `Checkpoints.between_steps`."""

    def at_end(self, state: RunState) -> None:
        """See `Checkpoints.at_end`."""


def train(
    run: Run,
    ports: Ports,
    state: RunState | None = None,
    *,
    checkpoints: Checkpoints | None = None,
    interrupted: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> Result:
    """Trains until the target or a limit of `config.run` is reached.

    state: to go on from, which the ranks' weights belong to; None begins. interrupted: asked before every step; the
    run then ends as it is. clock: seconds. Raises Interrupted: before there was a state.
    """
    checkpoints = checkpoints or NoCheckpoints()
    began = clock() - (state.seconds if state else 0.0)
    if state is None:
        state = _begun(run, ports)
    try:
        while True:
            if state.step:
                state = judged(run, state, ports)
            state = replace(state, seconds=clock() - began)
            stop = why_stop(run, state) or (Stop.INTERRUPTED if interrupted() else None)
            if stop:
                break
            checkpoints.between_steps(state)
            happened, begun = step(run, state, ports, lambda: clock() - began)
            before = state
            state = state.after(run, happened)  # from here on it is the ranks' new weights that belong to it
            state, happened = collected(state, happened, begun, lambda: clock() - began)
            state = logged(run, state, happened, ports)
            told(run, state, ports, before)
    except Interrupted:
        stop = Stop.INTERRUPTED
    finally:
        # Before the last evaluation, which a run with later limits would not have made.
        checkpoints.at_end(state)
    return _ended(run, state, ports, stop, lambda: clock() - began)


def _ended(run: Run, state: RunState, ports: Ports, stop: Stop, elapsed: Callable[[], float]) -> Result:
    """What came of the run, by a last evaluation and diagnosis."""
    outdated = [on for on, latest in _latest(run, state) if latest.policy_version != state.policy_version]
    with suppress(Interrupted):  # the run has ended already
        for on in outdated if stop is not Stop.INTERRUPTED else ():
            state = evaluated(run, state, ports, "after training", on)
    if state.diagnosis is None and never_learned(state):
        state = diagnosed(run, state, ports, in_hindsight=True)
    return result(run, replace(state, seconds=elapsed()), stop)


def _latest(run: Run, state: RunState) -> Sequence[tuple[EvaluatedOn, Evaluation]]:
    """The latest evaluations of all prompts that are evaluated."""
    latest: dict[EvaluatedOn, Evaluation | None] = {
        "train": state.latest if run.evaluated else None,
        "eval": state.held_out.latest if state.held_out else None,
    }
    return [(on, evaluation) for on, evaluation in latest.items() if evaluation]


def _begun(run: Run, ports: Ports) -> RunState:
    """The state before the first step."""
    label = "before training"
    ports.logger.phase(f"evaluating {label}")
    # What training is compared with, and not what ends it: in long texts it would cost as much as two steps.
    answers = answer(run, run.evaluated, ports.generator, ports.scorer, label, thrifty=True)
    before = evaluation_of(run, answers)
    sizes = _sizes(run, answers.sampled or _first_look(run, ports))
    held_out = evaluate(run, run.held_out, ports.generator, ports.scorer, label) if run.held_out else None
    state = RunState.start(run, before, held_out, sizes)
    for on, evaluation in _latest(run, state):
        ports.logger.evaluation(on, evaluation)
    told(run, state, ports)
    if _nothing_to_learn(run, before):
        state = replace(
            state,
            history=replace(state.history, reached=True),
            exhibits=trial.exhibits(range(len(run.prompts)), _tried(run, ports)),
        )
    return diagnosed(run, state, ports)


def _first_look(run: Run, ports: Ports) -> Sequence[ScoredGroup]:
    """A few samples of the first step's prompts, where they might do."""
    sampling, few = run.config.sampling, run.config.training.max_distinct_completions
    if few is None or few >= sampling.num_generations:
        return ()
    first = Curriculum.start(len(run.prompts)).take(run.config, sampling.prompts_per_step)
    return _sampled(run, ports, [run.prompts[rollout.prompt] for rollout in first], few, "first look")


def _sizes(run: Run, looks: Sequence[ScoredGroup]) -> dict[int, int]:
    """Of the first groups of the prompts that were looked at."""
    best = run.best_reward
    return {
        run.numbers[look.group.prompt.id]: next_size(run.config, look, classify(look, best), best) for look in looks
    }


def _nothing_to_learn(run: Run, before: Evaluation) -> bool:
    """Whether the untrained policy is at the target, or right in everything: what a reward that any answer earns
    looks like."""
    target = run.config.run.target_reward
    solved = before.prompts_solved == len(before.prompts) > 0
    return solved or (target is not None and reaches(before, target))


def _tried(run: Run, ports: Ports) -> Sequence[ScoredGroup]:
    """Groups of a few evaluated prompts, to try the reward function on."""
    prompts = run.evaluated[: trial.PROMPTS]
    return _sampled(run, ports, prompts, run.config.sampling.num_generations, "trial")


def _sampled(run: Run, ports: Ports, prompts: Sequence[Prompt], count: int, label: str) -> Sequence[ScoredGroup]:
    """`count` samples of each prompt, outside of a step. label: makes their random numbers their own."""
    temperature, seed = run.config.sampling.temperature, run.config.seed
    requests = [SampleRequest(prompt, count, temperature, seed_of(seed, label, prompt.id)) for prompt in prompts]
    return ports.scorer.score(ports.generator.sample(requests))
