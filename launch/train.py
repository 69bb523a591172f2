"""`cohort train`."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from configs.schema import Config
from launch.logger.display import Display
from launch.logger.run_folder import RunFolder
from launch.logger.tracking import Tracker, trackers
from launch.prepare import prepare
from launch.processes.start import engines_and_ranks
from launch.task_scorer import TaskScorer
from trainer import loop
from trainer.metrics import StepMetrics
from trainer.ports import Ports
from trainer.scored import ScoredGroup
from trainer.signal.kinds import Kind

REACHED, NO_SIGNAL, LIMIT = 0, 3, 4
"""Exit statuses: target reached or no target set, stopped because it cannot learn, and a limit reached before the
target."""


@dataclass(frozen=True)
class RunLogger:
    """`trainer.ports.Logger`: to the screen, the run's folder and the trackers."""

    display: Display
    folder: RunFolder
    trackers: Sequence[Tracker]

    def phase(self, text: str) -> None:
        """See `Logger.phase`."""
        self.display.phase(text)

    def alarm(self, text: str) -> None:
        """See `Logger.alarm`; summary.json has it from the result."""
        self.display.alarm(text)

    def step(self, step: StepMetrics, groups: Sequence[tuple[ScoredGroup, Kind]]) -> None:
        """See `Logger.step`."""
        self.folder.step(step, groups)
        for tracker in self.trackers:
            tracker.log(step)
        self.display.step(step)


class Interruption:
    """Ctrl-C (or SIGTERM, as from `ray job stop`) ends the run after the step; a second one ends it at once."""

    def __init__(self) -> None:
        self.requested = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While open, the first signal only sets `requested`."""
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


def train(config: Config) -> int:
    """Trains as configured; the exit status."""
    with Display(config) as display:
        display.phase("reading model and data")
        prepared = prepare(config)
        folder = RunFolder.create(config)
        logger = RunLogger(display, folder, trackers(config, folder))
        interruption = Interruption()
        try:
            with engines_and_ranks(prepared, display.phase) as (engines, ranks), interruption.watched():
                task = prepared.task
                result = loop.train(
                    config,
                    task.prompts,
                    task.best_reward,
                    Ports(engines, TaskScorer(task), ranks, ranks, logger),
                    dtype=ranks.dtype,
                    interrupted=lambda: interruption.requested,
                )
                if config.run.save_model:
                    display.phase("saving the model")
                    ranks.save(str(folder.model_path))
                folder.summary(result, config)
        finally:
            for tracker in logger.trackers:
                tracker.close()
        display.result(result, folder)
    if interruption.requested:
        raise KeyboardInterrupt
    if result.gave_up:
        return NO_SIGNAL
    return LIMIT if result.reached is False else REACHED
