"""Metrics to TensorBoard and Weights & Biases, under their own names; those of an evaluation as `eval/...` if it is
of held-out prompts, else as `train/...`."""

import os
import socket
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from configs.errors import ConfigError
from configs.schema import Config
from launch.logger.run_folder import RunFolder

UPLOAD_SECONDS = 60.0
"""That Weights & Biases has to upload what is left at the end. It is in the run's folder in any case."""


class Tracker(Protocol):
    """May raise whatever its library does."""

    name: str
    """As the user knows it."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record values of a step, by name."""
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


def trackers(config: Config, folder: RunFolder, step: int = 0) -> tuple[Tracker, ...]:
    """What `tracking` asks for, open. step: done before, in a run that goes on; later ones are logged again.

    Raises ConfigError: Weights & Biases refuses, or the folder cannot be written to.
    """
    opened: list[Tracker] = []
    if config.tracking.wandb != "off":
        opened.append(WandbTracker(config, folder))
    if config.tracking.tensorboard:
        try:
            opened.append(TensorBoardTracker(folder.tensorboard_path, step))
        except OSError as error:
            raise ConfigError(
                f"tracking.tensorboard: its files cannot be written into the run's folder: {error}. Make room or "
                "correct the permissions there, choose another run.directory, or set tracking.tensorboard: false."
            ) from error
    return tuple(opened)


class TensorBoardTracker:
    """One scalar per metric, written when `log` returns. Uses TensorBoard's own writer of records, which loads
    neither torch nor TensorFlow. (Its writer of events writes in a thread, and fails there.)"""

    name = "TensorBoard"

    def __init__(self, path: Path, step: int = 0) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        path.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns() // 10**9:010}.{socket.gethostname()}.{os.getpid()}.{step}"
        self._writer = RecordWriter((path / name).open("xb", buffering=0))
        self._write(Event(file_version="brain.Event:2"))
        if step:  # what files before this one say of later steps is outdated
            self._write(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._write(Event(step=step, summary=summary))

    def close(self) -> None:
        self._writer.close()

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self._writer.write(event.SerializeToString())


class WandbTracker:
    """A Weights & Biases run with the name of the run's folder; its files are in `wandb/` there, and its id, with
    which a run that goes on is the same one there too."""

    name = "Weights & Biases"

    def __init__(self, config: Config, folder: RunFolder) -> None:
        import wandb

        mode = config.tracking.wandb
        id_path = folder.path / "wandb" / "run-id"
        known = id_path.read_text(encoding="utf-8").strip() if id_path.exists() else None
        try:
            self._run = wandb.init(
                id=known,
                resume="allow" if known and mode == "online" else None,
                project=config.tracking.wandb_project,
                name=folder.path.name,
                dir=str(folder.path),
                config=config.model_dump(mode="json"),
                mode="offline" if mode == "offline" else "online",
                settings=wandb.Settings(
                    console="off",
                    silent=mode == "offline",
                    finish_timeout=UPLOAD_SECONDS,
                    finish_timeout_raises=True,
                ),
            )
        except wandb.Error as error:
            raise ConfigError(
                f"tracking.wandb: {mode} did not work: {error}. It must be off, offline or online, and "
                "online needs a network and an account. Run `wandb login`, or set tracking.wandb: offline."
            ) from None
        id_path.parent.mkdir(exist_ok=True)
        id_path.write_text(self._run.id, encoding="utf-8")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        import wandb

        self._run.finish()
        wandb.teardown()  # finish returns before the last of the files is written
