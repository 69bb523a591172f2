"""Training from Python: `from launch.api import train`."""

import base64
import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.loading import merged, read, validated
from configs.schema import RunSettings
from rewards.dataset import write
from rewards.errors import TaskError

if TYPE_CHECKING:
    from pandas import DataFrame

INPUTS = "inputs"
"""Folder in `run.directory` for what was given as objects: a run that goes on needs it again."""

FUNCTION_FILE = '''\
"""A reward function that was given to launch.api.train, as cloudpickle wrote it."""

import base64

import cloudpickle

{name} = cloudpickle.loads(base64.b64decode("{pickled}"))
'''


@dataclass(frozen=True)
class Trained:
    """How a run ended.

    status: as of `cohort train`: 0 the target is reached or none was set, 3 it cannot learn, 4 a limit came first, 5
        it was interrupted.
    summary: what summary.json holds; empty for a run that was interrupted at its start.
    metrics: a row for each step. folder: of the run. model: the trained model; None where it was not saved.
    """

    status: int
    summary: Mapping[str, Any]
    metrics: "DataFrame"
    folder: Path
    model: Path | None


def train(config: str | Path | None = None, **sections: Any) -> Trained:
    """Trains as `cohort train CONFIG` does; Ctrl-C saves and ends it likewise.

    config: a YAML file, or None for the defaults. sections: settings that win over it, as in `run={"max_steps": 20}`,
    and `seed=1`. In `task`, `dataset` and `eval_dataset` may be `datasets.Dataset` objects or lists of rows, `reward`
    a function, a class with `__call__`, or a list of these and of pairs (function, weight). A `task` with a data set
    takes the place of the file's.

    Raises ConfigError, TaskError: something cannot be used. RewardError, RemoteError, FolderError: the run failed.
    """
    values = read(Path(config)) if config else {}
    task = dict(sections.get("task", {}))
    if "dataset" in task:
        values = {name: value for name, value in values.items() if name != "task"}
    given = merged(values, {**sections, **({"task": task} if task else {})})
    given["task"] = _shipped(given.get("task", {}), _inputs(given))
    settings = validated(given, name=Path(config).stem if config else "run")

    from launch.train import trained

    status, folder = trained(settings)
    return _result(status, folder)


def _result(status: int, folder: Path) -> Trained:
    from pandas import DataFrame

    summary, metrics, model = folder / "summary.json", folder / "metrics.jsonl", folder / "model"
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
    return Trained(
        status,
        json.loads(summary.read_text(encoding="utf-8")) if summary.exists() else {},
        DataFrame([json.loads(line) for line in lines]),
        folder,
        model if model.exists() else None,
    )


def _inputs(given: Mapping[str, Any]) -> Path:
    run = given.get("run", {})
    directory = run.get("directory") if isinstance(run, Mapping) else None
    return Path(str(directory or RunSettings.model_fields["directory"].default)) / INPUTS


def _shipped(task: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The task with a file's name in place of every object."""
    shipped = dict(task)
    for name in ("dataset", "eval_dataset"):
        if name in shipped and not isinstance(shipped[name], str | None):
            shipped[name] = write(f"task.{name}", shipped[name], folder)
    if "reward" in shipped:
        reward = shipped["reward"]
        several = reward if isinstance(reward, list) else [reward]
        shipped["reward"] = [_reward_text(one, folder) for one in several if one is not None]
    return shipped


def _reward_text(reward: Any, folder: Path) -> str:
    """As `task.reward` has it."""
    function, weight = reward if isinstance(reward, tuple) and len(reward) == 2 else (reward, None)
    text = function if isinstance(function, str) else _function_file(function, folder)
    return text if weight is None else f"{text} {weight:.9f}"


def _function_file(function: Callable[..., Any], folder: Path) -> str:
    import cloudpickle

    name = getattr(function, "__name__", type(function).__name__)
    if not callable(function):
        raise TaskError(
            f"task.reward: a {type(function).__name__} is not allowed; it must be a function, a class with __call__, "
            "path/to/file.py:function, or a pair of one of these and a weight."
        )
    module = sys.modules.get(getattr(function, "__module__", "") or "")
    by_value = module is not None and module.__name__ != "__main__" and _is_the_users(module)
    try:
        if by_value:
            cloudpickle.register_pickle_by_value(module)
        pickled = cloudpickle.dumps(function)
    except Exception as error:  # whatever the objects raise that it refers to
        raise TaskError(
            f"task.reward: {name} cannot be sent to the process that runs it: {error}. Make what it refers to inside "
            "of it, or write it into a file and name that, as path/to/file.py:function."
        ) from error
    finally:
        if by_value:
            cloudpickle.unregister_pickle_by_value(module)
    name = name if name.isidentifier() and name.isascii() else "reward"
    text = FUNCTION_FILE.format(name=name, pickled=base64.b64encode(pickled).decode())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"reward_{hashlib.sha256(pickled).hexdigest()[:16]}.py"
    path.write_text(text, encoding="utf-8")
    return f"{path}:{name}"


def _is_the_users(module: Any) -> bool:
    """Whether its file is not of an installed package, which the other process can import too."""
    file = getattr(module, "__file__", None)
    return file is not None and "site-packages" not in file and not file.startswith(sys.base_prefix)
