"""A checkpoint: a folder with all that a run needs to go on, complete or not there.

checkpoints/step-000120/
  model/                          the policy, in Hugging Face format; with LoRA merged, and adapter/, peft's
  optimizer-00001.safetensors ... master weights and Adam's moments of what is trained; optimizer.json
  record.json                     the state of the loop, and what it belongs to
  manifest.json                   size and SHA-256 of every other file
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.jsonable import NotThisRecord, from_json, to_json
from trainer.state import RunState

SCHEMA = 1
"""Of record.json; raise it when a field of `Record` changes."""

UNFINISHED = "unfinished-"
PREFIX = "step-"


class Damaged(ValueError):
    """The folder does not hold what was written; the message says what is wrong."""


@dataclass(frozen=True)
class Record:
    """What the controller knows.

    state: of the loop. evaluated: mean sampled reward of these very weights, None if they were not evaluated.
    config: the configuration, as JSON. identity: hashes of what else the run depends on (`launch.resume`).
    sizes: bytes of the files that grow in the run's folder. restarts: why processes were replaced so far.
    """

    state: RunState
    evaluated: float | None
    config: str
    identity: Mapping[str, str]
    sizes: Mapping[str, int]
    restarts: tuple[str, ...]


@dataclass(frozen=True)
class Checkpoint:
    """One that is complete and as it was written."""

    path: Path
    record: Record

    @property
    def model_path(self) -> Path:
        """The policy, in Hugging Face format."""
        return self.path / "model"


def write(folder: Path, record: Record, save: Callable[[str], None]) -> Checkpoint:
    """Writes beside, verifies, renames.

    folder: of the run's checkpoints. save: writes the ranks' part into a folder that it is given. Raises OSError,
    Damaged, and what `save` raises; nothing is left behind then.
    """
    path = folder / f"{PREFIX}{record.state.step:06}"
    unfinished = folder / f"{UNFINISHED}{path.name}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        save(str(unfinished.absolute()))
        if not (unfinished / "optimizer.json").exists():
            raise Damaged(
                f"the ranks wrote a checkpoint to {unfinished.absolute()}, and it is not there as seen from here: "
                "run.directory must be a folder that all machines of the cluster share"
            )
        text = json.dumps({"schema": SCHEMA, **to_json(record)}, allow_nan=False)
        (unfinished / "record.json").write_text(text, encoding="utf-8")
        manifest = {str(file.relative_to(unfinished)): _digest(file, to_disk=True) for file in _files(unfinished)}
        (unfinished / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        if path.exists():  # of the same step, before the run went on from an earlier one
            shutil.rmtree(path)
        unfinished.rename(path)
        _sync(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return Checkpoint(path, record)


def read(path: Path) -> Checkpoint:
    """The checkpoint in the folder `path`, with every file verified. Raises Damaged."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        for name, expected in manifest.items():
            if _digest(path / name) != expected:
                raise Damaged(f"{path}: {name} is not what was written")
        value = json.loads((path / "record.json").read_text(encoding="utf-8"))
        if value.pop("schema") != SCHEMA:
            raise Damaged(f"{path}: it was written by another version of Cohort; use that one")
        return Checkpoint(path, from_json(Record, value))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        if isinstance(error, Damaged):
            raise
        raise Damaged(f"{path}: {_problem(error)}") from error


def latest(folder: Path, tell: Callable[[str], None]) -> Checkpoint | None:
    """The latest one that is not damaged. tell: what is said of those that are."""
    for path in reversed(paths(folder)):
        try:
            return read(path)
        except Damaged as error:
            tell(f"A checkpoint is damaged and is left out: {error}.")
    return None


def latest_settings(folder: Path) -> Mapping[str, Any] | None:
    """What `Record.config` of the latest one says, read in no time: without verifying that all of it is there."""
    found = paths(folder)
    with suppress(ValueError):
        settings = json.loads(str(_unverified(found[-1], "config"))) if found else None
        return settings if isinstance(settings, dict) else None
    return None


def paths(folder: Path) -> list[Path]:
    """Of all checkpoints, the earliest first, damaged ones included."""
    return sorted(folder.glob(f"{PREFIX}*"), key=lambda path: (len(path.name), path.name))


def prune(folder: Path, kept: int) -> None:
    """Removes all but the `kept` latest and the one with the best evaluation (the earliest of several)."""
    found = paths(folder)
    rewards = {path: reward for path in found if (reward := _evaluated(path)) is not None}
    best = max(rewards, key=lambda path: rewards[path], default=None)
    for path in found[:-kept]:
        if path != best:
            shutil.rmtree(path)
    for path in folder.glob(f"{UNFINISHED}*"):
        shutil.rmtree(path)


def _evaluated(path: Path) -> float | None:
    """`Record.evaluated`; of a damaged checkpoint None, for that is not the best one."""
    value = _unverified(path, "evaluated")
    return value if isinstance(value, float) else None


def _unverified(path: Path, name: str) -> object:
    """A field of the record, None where there is none."""
    try:
        return json.loads((path / "record.json").read_text(encoding="utf-8"))[name]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _files(folder: Path) -> Iterator[Path]:
    yield from sorted(path for path in folder.rglob("*") if path.is_file())


def _digest(path: Path, to_disk: bool = False) -> list[int | str]:
    """Size and SHA-256. to_disk: wait until it is there."""
    with path.open("rb") as file:
        if to_disk:
            os.fsync(file.fileno())
        return [path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()]


def _sync(folder: Path) -> None:
    """Waits until the folder's entries are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _problem(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{Path(error.filename).name} is missing"
    return str(error) if isinstance(error, NotThisRecord) else f"{type(error).__name__}: {error}"
