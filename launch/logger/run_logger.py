"""The run's logger: to the screen, the run's folder and the trackers."""

from collections.abc import Sequence
from dataclasses import dataclass

from launch.logger.display import Display
from launch.logger.run_folder import RunFolder
from launch.logger.tracking import Tracker
from trainer.metrics import StepMetrics
from trainer.signal.treatment import Treated


@dataclass(frozen=True)
class RunLogger:
    """`trainer.ports.Logger`."""

    display: Display
    folder: RunFolder
    trackers: Sequence[Tracker]

    def phase(self, text: str) -> None:
        """See `Logger.phase`."""
        self.display.phase(text)

    def alarm(self, text: str) -> None:
        """See `Logger.alarm`; summary.json has it from the result."""
        self.display.alarm(text)

    def step(self, step: StepMetrics, groups: Sequence[Treated]) -> None:
        """See `Logger.step`."""
        self.folder.step(step, groups)
        for tracker in self.trackers:
            tracker.log(step)
        self.display.step(step)
