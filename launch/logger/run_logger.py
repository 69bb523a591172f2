"""The run's logger: to the screen, the run's folder and the trackers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from launch.limited import limited
from launch.logger.display import Display
from launch.logger.run_folder import RunFolder
from launch.logger.tracking import UPLOAD_SECONDS, Tracker
from trainer.evaluation import EvaluatedOn, Evaluation
from trainer.metrics import StepMetrics
from trainer.signal.treatment import Treated

TRACKER_SECONDS = 30.0
"""That a tracker may take for a step. Both only put it into a file or a queue."""


class RunLogger:
    """`trainer.ports.Logger`. A tracker that fails is told once, and the run goes on without it."""

    def __init__(self, display: Display, folder: RunFolder, trackers: Iterable[Tracker]) -> None:
        self._display = display
        self._folder = folder
        self._trackers = list(trackers)

    def phase(self, text: str) -> None:
        """See `Logger.phase`."""
        self._display.phase(text)

    def alarm(self, text: str) -> None:
        """See `Logger.alarm`; summary.json has it from the result."""
        self._display.alarm(text)

    def note(self, text: str) -> None:
        """See `Logger.note`."""
        self._display.note(text)

    def evaluation(self, on: EvaluatedOn, evaluation: Evaluation) -> None:
        """See `Logger.evaluation`."""
        self._folder.evaluation(on, evaluation)
        self._track(evaluation.step, {f"{on}/{name}": value for name, value in evaluation.means.items()})
        if on == "eval":
            self._display.evaluation(evaluation)

    def step(self, step: StepMetrics, groups: Sequence[Treated]) -> None:
        """See `Logger.step`."""
        self._folder.step(step, groups)
        values = step.named
        self._track(step.step, {name: value for name, value in values.items() if name != "step"})
        self._display.step(step)

    def close(self) -> None:
        """Closes the trackers. Raises nothing of theirs."""
        while self._trackers:
            tracker = self._trackers.pop()
            self._try(tracker, tracker.close, UPLOAD_SECONDS + TRACKER_SECONDS)

    def _track(self, step: int, values: Mapping[str, float]) -> None:
        for tracker in [*self._trackers]:
            if not self._try(tracker, partial(tracker.log, step, values), TRACKER_SECONDS):
                self._trackers.remove(tracker)

    def _try(self, tracker: Tracker, call: Callable[[], None], seconds: float) -> bool:
        """Whether the tracker did it."""
        try:
            limited(call, seconds)
        except Exception as error:  # noqa: BLE001 - whatever libraries of others raise, the run is worth more
            problem = str(error).strip() or type(error).__name__
            if isinstance(error, TimeoutError):
                problem = f"not done within {seconds:g} seconds"
            self.alarm(
                f"tracking: {tracker.name} failed ({problem}) and gets nothing more; metrics.jsonl has every step."
            )
            return False
        return True
