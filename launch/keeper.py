"""When a run's checkpoints are written."""

import time
from collections.abc import Callable

from configs.schema import Config
from launch import checkpoint
from launch.checkpoint import Checkpoint, Damaged, Record
from launch.errors import ClusterLost, ProcessFailed, ProcessLost, RemoteError
from launch.logger.run_folder import PATIENCE, RunFolder
from launch.processes.pool import Ranks
from trainer.state import RunState

BETWEEN = 60.0
"""Seconds at least between two that are written out of turn: for a better evaluation, or after one that failed."""

PAUSE = 1.0
"""Seconds between attempts at the last one."""


class Keeper:
    """`trainer.loop.Checkpoints`, in the run's folder.

    belongs: the record that a state is part of. latest: the checkpoint the run goes on from, if it does.
    tell: an alarm. hurry: whether the run is to end at once. clock: seconds.
    """

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        ranks: Ranks,
        belongs: Callable[[RunState], Record],
        latest: Checkpoint | None,
        tell: Callable[[str], None],
        hurry: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = config.run
        self._folder = folder
        self._ranks = ranks
        self._belongs = belongs
        self._tell = tell
        self._hurry = hurry
        self._clock = clock
        self._at = clock()
        self._step = latest.record.state.step if latest else 0
        self._best = latest.record.evaluated if latest else None
        self._failed: float | None = None
        self.latest = latest

    def between_steps(self, state: RunState) -> None:
        """See `Checkpoints.between_steps`. One that cannot be written is tried again after a while."""
        if not self._is_time(state):
            return
        try:
            self._write(state)
        except (ProcessLost, ClusterLost):
            raise
        except (OSError, Damaged, RemoteError) as error:
            self._failed = self._clock()
            self._tell(f"No checkpoint could be written at step {state.step}: {_line(error)}. It is tried again.")

    def at_end(self, state: RunState) -> None:
        """See `Checkpoints.at_end`. One that cannot be written is tried again for a minute, as a run's files are."""
        deadline = self._clock() + PATIENCE
        told = False
        while not (self._hurry() or self.has(state.step)):
            try:
                self._write(state)
            except (ProcessLost, ClusterLost):
                return  # which is why it ends
            except (OSError, Damaged, RemoteError) as error:
                problem = f"The last checkpoint could not be written: {_line(error)}."
                lasts = isinstance(error, RemoteError) and not isinstance(error, ProcessFailed)
                if lasts or self._clock() >= deadline:
                    self._tell(f"{problem} Of earlier ones {self._remains()}.")
                    return
                if not told:
                    self._tell(f"{problem} It is tried again for {PATIENCE:g} seconds.")
                told = True
                time.sleep(PAUSE)

    def _remains(self) -> str:
        return f"the one at step {self.latest.record.state.step} remains" if self.latest else "there is none"

    def has(self, step: int) -> bool:
        """Whether the latest checkpoint is of that step."""
        return self.latest is not None and self.latest.record.state.step == step

    def _is_time(self, state: RunState) -> bool:
        if self.has(state.step):
            return False
        if self._failed is not None:
            return self._clock() - self._failed >= BETWEEN
        passed, run = self._clock() - self._at, self._run
        reward = evaluated(state)
        better = reward is not None and (self._best is None or reward > self._best) and state.step > 0
        return (
            (run.checkpoint_seconds is not None and passed >= run.checkpoint_seconds)
            or (run.checkpoint_steps is not None and state.step - self._step >= run.checkpoint_steps)
            or (better and passed >= BETWEEN)
        )

    def _write(self, state: RunState) -> None:
        self._folder.catch_up()
        self._folder.to_disk()
        version = state.policy_version
        written = checkpoint.write(
            self._folder.checkpoints_path, self._belongs(state), lambda path: self._ranks.save(path, version)
        )
        self.latest, self._at, self._step, self._failed = written, self._clock(), state.step, None
        if written.record.evaluated is not None:
            self._best = max(written.record.evaluated, self._best or written.record.evaluated)
        checkpoint.prune(self._folder.checkpoints_path, self._run.keep_checkpoints)


def evaluated(state: RunState) -> float | None:
    """Mean sampled reward of the state's own policy, if it was evaluated."""
    latest = state.telling
    fresh = latest.prompts and latest.policy_version == state.policy_version
    return latest.reward_sampled if fresh else None


def _line(error: BaseException) -> str:
    """The last line, which of an exception from elsewhere is what it says."""
    return str(error).strip().splitlines()[-1].rstrip(".")
