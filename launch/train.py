"""`cohort train`."""

from configs.schema import Config
from launch.interruption import Interruption
from launch.logger.display import Display
from launch.logger.run_folder import RunFolder
from launch.logger.run_logger import RunLogger
from launch.logger.tracking import trackers
from launch.prepare import prepare
from launch.processes.start import engines_and_ranks
from launch.task_scorer import TaskScorer
from trainer import loop
from trainer.ending import Result, Stop, Target
from trainer.ports import Ports
from trainer.run import Run

REACHED, NO_SIGNAL, LIMIT = 0, 3, 4
"""Exit statuses: target reached or no target set, stopped because it cannot learn, and a limit reached before the
target."""


def train(config: Config) -> int:
    """Trains as configured; the exit status."""
    with Display(config) as display:
        display.phase("reading model and data")
        prepared = prepare(config, trains=True)
        folder = RunFolder.create(config)
        logger = RunLogger(display, folder, trackers(config, folder))
        interruption = Interruption()
        try:
            with engines_and_ranks(prepared, display.phase) as (engines, ranks), interruption.watched():
                task = prepared.task
                result = loop.train(
                    Run(config, task.prompts, task.best_reward, ranks.dtype),
                    Ports(engines, TaskScorer(task), ranks, ranks, logger),
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
    if result.stop is Stop.INTERRUPTED:
        raise KeyboardInterrupt
    return exit_status(result)


def exit_status(result: Result) -> int:
    """Of a run that was not interrupted."""
    if result.stop is Stop.CANNOT_LEARN:
        return NO_SIGNAL
    return LIMIT if result.target is Target.MISSED else REACHED
