"""`cohort train`."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from configs.errors import ConfigError
from configs.schema import Config
from launch import checkpoint, resume
from launch.checkpoint import Checkpoint
from launch.logger.display import Display
from launch.logger.run_folder import RunFolder
from launch.prepare import prepare


def train(config: Config, folder: Path | None = None) -> int:
    """Trains as configured; the exit status. folder: of a run to go on with."""
    return trained(config, folder)[0]


def trained(config: Config, folder: Path | None = None) -> tuple[int, Path]:
    """Trains as configured; the exit status, and the run's folder. folder: of a run to go on with."""
    with Display(config) as display:
        display.phase("reading model and data")
        prepared = prepare(config, trains=True, refuse=partial(_refuse_to_go_on, folder))
        config = prepared.config
        run_folder = replace(_folder(config, folder), tell=display.alarm)
        with run_folder.locked():
            begin = _begin_at(config, folder, run_folder, display)
            from launch.run import TrainingRun  # only now, for it imports Ray, and much is refused before

            return TrainingRun(prepared, run_folder, display).run(begin), run_folder.path


def _folder(config: Config, folder: Path | None) -> RunFolder:
    if folder:
        return RunFolder(folder)
    return RunFolder.named(config) if config.run.resume == "auto" else RunFolder.create(config)


def _refuse_to_go_on(folder: Path | None, config: Config) -> None:
    """Raises ConfigError: there is nothing in the folder to go on from, or it was begun with other settings."""
    if folder is None:
        return
    checkpoints = RunFolder(folder).checkpoints_path
    if not checkpoint.paths(checkpoints):
        raise _nothing_whole(folder, checkpoints)
    if before := checkpoint.latest_settings(checkpoints):
        resume.refuse_other_settings(before, config)


def _nothing_whole(folder: Path, checkpoints: Path) -> ConfigError:
    return ConfigError(
        f"--resume {folder}: there is no whole checkpoint in {checkpoints}. Begin anew with `cohort train CONFIG`."
    )


def _begin_at(config: Config, folder: Path | None, run_folder: RunFolder, display: Display) -> Checkpoint | None:
    """The checkpoint to go on from. Raises ConfigError: there is none, and one was asked for."""
    if not folder and config.run.resume != "auto":
        return None
    found = checkpoint.latest(run_folder.checkpoints_path, display.alarm)
    if folder and not found:
        raise _nothing_whole(folder, run_folder.checkpoints_path)
    return found
