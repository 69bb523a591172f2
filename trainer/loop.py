"""The loop: one step after another, over plain ports, until there is a reason to stop."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from generation.engine import SampleRequest, seed_of
from trainer.diagnosis import trial
from trainer.ending import Result, Stop, never_learned, result, why_stop
from trainer.evaluation import Evaluation, evaluate, reaches
from trainer.ports import Ports
from trainer.run import Run
from trainer.scored import ScoredGroup
from trainer.state import RunState
from trainer.step import diagnosed, evaluated, step


def train(
    run: Run,
    ports: Ports,
    *,
    interrupted: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> Result:
    """Trains until the target or a limit of `config.run` is reached.

    interrupted: asked after every step that another is to follow; the run then ends as it is. clock: seconds.
    """
    began = clock()
    state = replace(_begun(run, ports), seconds=clock() - began)
    stop = why_stop(run, state)
    while stop is None:
        state, _ = step(run, state, ports, lambda: clock() - began)
        stop = why_stop(run, state) or (Stop.INTERRUPTED if interrupted() else None)
    if state.latest.policy_version != state.policy_version and not interrupted():
        state = evaluated(run, state, ports, "after training")
    if state.diagnosis is None and never_learned(state):
        state = diagnosed(run, state, ports, in_hindsight=True)
    return result(run, replace(state, seconds=clock() - began), stop)


def _begun(run: Run, ports: Ports) -> RunState:
    """The state before the first step."""
    ports.logger.phase("evaluating before training")
    before = evaluate(run, ports.generator, ports.scorer, "before training")
    state = RunState.start(run, before)
    if _nothing_to_learn(run, before):
        state = replace(
            state,
            history=replace(state.history, reached=True),
            exhibits=trial.exhibits(range(len(run.prompts)), _tried(run, ports)),
        )
    return diagnosed(run, state, ports)


def _nothing_to_learn(run: Run, before: Evaluation) -> bool:
    """Whether the untrained policy is at the target, or right in everything: what a reward that any answer earns
    looks like."""
    target = run.config.run.target_reward
    solved = before.prompts_solved == len(before.prompts)
    return solved or (target is not None and reaches(before, target))


def _tried(run: Run, ports: Ports) -> Sequence[ScoredGroup]:
    """Groups of a few evaluated prompts, to try the reward function on."""
    sampling, seed = run.config.sampling, run.config.seed
    requests = [
        SampleRequest(prompt, sampling.num_generations, sampling.temperature, seed_of(seed, "trial", prompt.id))
        for prompt in run.evaluated[: trial.PROMPTS]
    ]
    return ports.scorer.score(ports.generator.sample(requests))
