"""Metrics to TensorBoard and Weights & Biases, under the names that StepMetrics gives them."""

import time
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from configs.errors import ConfigError
from configs.schema import Config
from launch.logger.run_folder import RunFolder
from trainer.metrics import StepMetrics


class Tracker(Protocol):
    def log(self, metrics: StepMetrics) -> None:
        """Record a step."""
        ...

    def close(self) -> None:
        """Finish writing. Nothing is logged afterwards."""
        ...


def refuse_missing_wandb(config: Config) -> None:
    """Raises ConfigError: Weights & Biases is asked for and not installed. Imports nothing."""
    spec = find_spec("wandb")
    missing = spec is None or spec.origin is None  # a folder named wandb, as W&B itself leaves, has no origin
    if config.tracking.wandb != "off" and missing:
        raise ConfigError(
            f"tracking.wandb: {config.tracking.wandb} needs the package wandb, which is not installed; "
            "without it only off is allowed. Run `pip install wandb`, or set tracking.wandb: off."
        )


def trackers(config: Config, folder: RunFolder) -> tuple[Tracker, ...]:
    """What `tracking` asks for, open. Raises ConfigError if Weights & Biases refuses."""
    opened: list[Tracker] = []
    if config.tracking.wandb != "off":
        opened.append(WandbTracker(config, folder))
    if config.tracking.tensorboard:
        opened.append(TensorBoardTracker(folder.tensorboard_path))
    return tuple(opened)


class TensorBoardTracker:
    """One scalar per metric. Uses TensorBoard's own writer, which loads neither torch nor TensorFlow."""

    def __init__(self, path: Path) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(str(path))

    def log(self, metrics: StepMetrics) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary(
            value=[Summary.Value(tag=tag, simple_value=value) for tag, value in _values(metrics).items()]
        )
        self._writer.add_event(Event(wall_time=time.time(), step=metrics.step, summary=summary))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandbTracker:
    """A Weights & Biases run with the name of the run's folder; its files are in `wandb/` there."""

    def __init__(self, config: Config, folder: RunFolder) -> None:
        import wandb

        mode = config.tracking.wandb
        try:
            self._run = wandb.init(
                project=config.tracking.wandb_project,
                name=folder.path.name,
                dir=str(folder.path),
                config=config.model_dump(mode="json"),
                mode="offline" if mode == "offline" else "online",
                settings=wandb.Settings(console="off", silent=mode == "offline"),
            )
        except wandb.Error as error:
            raise ConfigError(
                f"tracking.wandb: {mode} did not work: {error}. It must be off, offline or online, and "
                "online needs a network and an account. Run `wandb login`, or set tracking.wandb: offline."
            ) from None

    def log(self, metrics: StepMetrics) -> None:
        self._run.log(_values(metrics), step=metrics.step)

    def close(self) -> None:
        import wandb

        self._run.finish()
        wandb.teardown()  # finish returns before the last of the files is written


def _values(metrics: StepMetrics) -> dict[str, Any]:
    values = asdict(metrics)
    del values["step"]
    return values
