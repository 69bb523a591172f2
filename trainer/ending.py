"""How a run ends: why before its next step, and what came of it."""

from dataclasses import dataclass
from enum import Enum

import numpy as np

from trainer.diagnosis.alarm import Alarm
from trainer.diagnosis.causes import SILENT_STEPS
from trainer.diagnosis.sentences import Diagnosis
from trainer.evaluation import Evaluation, reaches
from trainer.run import Run
from trainer.signal.kinds import MANY_MISSES
from trainer.signal.right_and_wrong import Chosen
from trainer.signal.self_imitation import PROMPTS
from trainer.state import HeldOut, RunState


class Stop(Enum):
    """Why there is no further step; `text` says it."""

    TARGET = "The target, a mean reward of {limits.target_reward:g}, is reached."
    CANNOT_LEARN = "The run cannot learn (signal.stop_without_signal)."
    MAX_STEPS = "All {limits.max_steps} steps (run.max_steps) are done."
    MAX_SECONDS = "The limit of {limits.max_seconds:g} seconds (run.max_seconds) is reached."
    INTERRUPTED = "Interrupted."

    def text(self, run: Run) -> str:
        """One sentence."""
        return self.value.format(limits=run.config.run)


class Target(Enum):
    """What became of `run.target_reward`; the values are those of `reached` in summary.json."""

    NONE = None
    REACHED = True
    MISSED = False


@dataclass(frozen=True)
class Result:
    """How a run ended.

    stopped: `stop` as a sentence. verdict: what came of it, one sentence.
    diagnosis: why it could not learn, whether or not that stopped it; its verdict is `verdict` then.
    before, after: evaluations of prompts that were trained on. held_out: of others.
    alarms: of each name the first. without_best: what groups without a right answer were trained on in the end.
    never_right: ids of prompts that no step sampled a right answer to, of those that had three groups or more.
    """

    target: Target
    stop: Stop
    stopped: str
    verdict: str
    diagnosis: Diagnosis | None
    steps: int
    seconds: float
    policy_version: int
    before: Evaluation
    after: Evaluation
    held_out: HeldOut | None
    alarms: tuple[Alarm, ...]
    without_best: Chosen
    never_right: tuple[str, ...]


def why_stop(run: Run, state: RunState) -> Stop | None:
    """Why the run ends before the next step, or None."""
    limits = run.config.run
    target = limits.target_reward
    gives_up = state.diagnosis is not None and run.config.signal.stop_without_signal
    measured = _measured(run, state)
    fresh = measured.policy_version == state.policy_version
    reached = target is not None and fresh and reaches(measured, target)
    if reached and not (gives_up and state.policy_version == 0):
        return Stop.TARGET
    if gives_up:
        return Stop.CANNOT_LEARN
    if limits.max_steps is not None and state.step >= limits.max_steps:
        return Stop.MAX_STEPS
    if limits.max_seconds is not None and state.seconds >= limits.max_seconds:
        return Stop.MAX_SECONDS
    return None


def result(run: Run, state: RunState, stop: Stop) -> Result:
    """What came of the run. state: with an evaluation of the last policy, unless it was interrupted."""
    diagnosis, target = state.diagnosis, _target(run, state, stop)
    if target is Target.REACHED and state.policy_version > 0:
        diagnosis = None
    stopped = stop.text(run)
    return Result(
        target=target,
        stop=stop,
        stopped=stopped,
        verdict=diagnosis.verdict if diagnosis else _verdict(stopped, state),
        diagnosis=diagnosis,
        steps=state.step,
        seconds=state.seconds,
        policy_version=state.policy_version,
        before=state.before,
        after=state.latest,
        held_out=state.held_out,
        alarms=state.alarms,
        without_best=state.without_best(run),
        never_right=_never_right(run, state),
    )


def never_learned(state: RunState) -> bool:
    """Whether there was something to learn, steps enough to learn it, and no group ever did, by its rewards."""
    past = state.history
    return SILENT_STEPS <= past.steps == past.silent_steps and len(past.unsolved) > 0


def _never_right(run: Run, state: RunState) -> tuple[str, ...]:
    """Of a score none is known to be right, and of very many prompts the memory forgets some."""
    known = state.memory.answers
    if state.without_best(run).mode == "train" or len(known) == PROMPTS:
        return ()
    numbers = np.flatnonzero(state.curriculum.misses >= MANY_MISSES).tolist()
    return tuple(run.prompts[number].id for number in numbers if number not in known)


def _target(run: Run, state: RunState, stop: Stop) -> Target:
    target = run.config.run.target_reward
    if target is None:
        return Target.NONE
    reached = stop is not Stop.CANNOT_LEARN and reaches(_measured(run, state), target)
    return Target.REACHED if reached else Target.MISSED


def _measured(run: Run, state: RunState) -> Evaluation:
    """The latest evaluation that the target is of."""
    return state.telling if run.config.run.target_on == "eval" else state.latest


def _verdict(stopped: str, state: RunState) -> str:
    """What came of a run that nothing was wrong with, one sentence."""
    first, last = state.before.reward_sampled, state.latest.reward_sampled
    if not state.latest.prompts and state.rewards.known.any():  # nothing was evaluated
        first, last = (state.rewards.mean(column) for column in (state.rewards.first, state.rewards.latest))
    rewards = f"from {first:.3f} to {last:.3f}"
    held_out = ""
    if state.held_out:
        one, other = state.held_out.before, state.held_out.latest
        held_out = f", that of held-out prompts from {one.reward_sampled:.3f} to {other.reward_sampled:.3f}"
    return f"{stopped.removesuffix('.')}: the mean reward went {rewards}{held_out} in {state.step} steps."
