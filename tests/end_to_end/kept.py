"""Ray, an engine and a rank, kept for several runs: starting them takes half a minute, a run of a tiny model seconds.

Each run is `cohort ...` in this process, from its arguments to its exit status. What differs from a command of its
own: Ray is there already, and where an actor would be started, one that is there starts anew: its engine takes the
run's settings and the model's weights, its rank is made again. Runs need settings that leave engines alike (`ALIKE`).
"""

import gc
import io
import os
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from configs.loading import load
from generation.buckets import pack
from generation.checksum import checksum
from generation.engine import EngineSpec
from launch.__main__ import main
from launch.processes import start
from launch.processes.actors import EngineProcess
from launch.processes.cluster import connected
from tests.end_to_end.runs import MARK, processes
from tests.tiny import CONTEXT, load_tiny_model

ALIKE: Mapping[str, Any] = {"max_model_len": CONTEXT, "threads": 1}
"""Section `engine` of every run."""


class Kept:
    """Runs commands, with the actors that the commands before them started."""

    def __init__(self) -> None:
        self._actors: dict[type, tuple[Any, EngineSpec | None]] = {}

    def cohort(self, *arguments: str, cwd: Path, **environment: str) -> tuple[int, str, str]:
        """Exit status, standard output and standard error. It leaves no process behind but the kept ones."""
        mark = uuid.uuid4().hex
        out, err = io.StringIO(), io.StringIO()
        with restored_environment(), pytest.MonkeyPatch.context() as patch:
            patch.chdir(cwd)
            patch.setattr(start, "connected", nullcontext)
            patch.setattr("launch.run.connected", nullcontext)
            patch.setattr(start, "ended", nullcontext)
            patch.setattr(start, "_actor", lambda process: Starter(self, process))
            os.environ |= {MARK: mark} | environment
            with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
                status = main(arguments)
        gc.collect()
        assert processes(mark) == {}
        return status, out.getvalue(), err.getvalue()

    def start(self, process: type, options: Mapping[str, Any], spec: EngineSpec | None) -> Any:
        """A handle of an actor that is as if it had been started with this. spec: an engine's; a rank gets its own
        later."""
        actor, before = self._actors.get(process, (None, None))
        if actor is None or not alike(before, spec):
            if actor is not None:
                ray.kill(actor)
            # While it is idle it takes no core from other actors.
            options = {**options, "num_cpus": 0}
            actor = ray.remote(process).options(**options).remote(*([] if spec is None else [spec]))
        elif spec is not None:
            ray.get(actor.__ray_call__.remote(as_started, spec))
        self._actors[process] = actor, spec
        return actor


def alike(first: EngineSpec | None, second: EngineSpec | None) -> bool:
    """Whether one engine can be both: it reads its sampling settings anew each time."""
    if first is None or second is None:
        return first is second
    return first == replace(second, sampling=first.sampling)


class Starter:
    """Stands for what `ray.remote` makes of an actor's class."""

    def __init__(self, kept: Kept, process: type) -> None:
        self._kept, self._process = kept, process

    def options(self, **options: Any) -> "Starter":
        """See Ray's `ActorClass.options`."""
        self._options = options
        return self

    def remote(self, spec: EngineSpec | None = None) -> Any:
        """See Ray's `ActorClass.remote`."""
        return self._kept.start(self._process, self._options, spec)


def as_started(process: EngineProcess, spec: EngineSpec) -> None:
    """In the engine's process: its settings, and the model's weights as policy version 0, whatever it held."""
    engine = process._engine
    engine._spec = spec
    weights = list(load_tiny_model(spec.model).named_parameters())
    engine.start_weight_update()
    for data, layout in pack(weights):
        engine.update_weights({"data": data, "layout": layout})
    engine.finish_weight_update("0")
    engine.confirm(0, checksum(weights))


@contextmanager
def keeping(folder: Path) -> Iterator[Kept]:
    """While open there is a Ray. folder: an empty one."""
    recipe = folder / "recipe.yaml"
    recipe.write_text("task: {name: comparison}\nrun: {max_steps: 1}\n")
    with restored_environment():
        for name in [name for name in os.environ if name.startswith(("RAY_", "VLLM_"))]:
            del os.environ[name]
        os.environ["HF_HUB_OFFLINE"] = "1"
        with connected(load(recipe)):
            yield Kept()


@contextmanager
def restored_environment() -> Iterator[None]:
    """Environment variables are afterwards as before."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
