"""`cohort check`."""

import io
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

from rich.console import Console
from rich.text import Text

from configs.derived import SHARED
from configs.printable import printable
from configs.schema import Config
from generation.engine import Engine, SampleRequest
from generation.groups import Group
from launch import hardware
from launch.check.advice import recommend
from launch.check.findings import find
from launch.check.forecast import forecast, probe_forest
from launch.check.look import look
from launch.check.page import WIDTH, show
from launch.engine_spec import lone_engine_spec, time_limits
from launch.errors import RemoteError
from launch.logger.display import shown
from launch.prepare import Prepared, prepare
from launch.processes.address import cluster_address
from launch.processes.start import engines_only
from launch.processes.waiting import wait
from launch.quiet import quiet
from launch.task_scorer import TaskScorer
from trainer.ports import Sampler
from trainer.update.forest import Forest
from trainer.update.probe import UpdateCost, probe

COULD, COULD_NOT = 0, 3
"""Exit statuses: the run could learn, or has nothing left to; and it could not."""

Phase = Callable[[str], None]


def check(config: Config) -> int:
    """Looks at what can be known before training; the exit status."""
    quiet()
    console = _console()

    def phase(text: str) -> None:
        console.print(shown(Text(text, style="dim")))

    phase("reading model and data")
    prepared = prepare(config)
    task = prepared.task
    lone, config = _lone(prepared, config), prepared.config
    with _site(lone, phase) as site:
        seen = look(config, task, site.generator, TaskScorer(task, config.task.reward_workers), phase)
        phase("timing an update")
        cost = site.cost(probe_forest(seen, config))
    predicted = forecast(seen, prepared, cost, lone_engine_spec(lone).forks)
    findings = find(seen, config, task, predicted)
    console.print()
    show(console, config, seen, recommend(seen, config), predicted, findings)
    return COULD_NOT if findings and findings[0].fatal else COULD


def _lone(prepared: Prepared, config: Config) -> Prepared:
    """With one engine, on whose GPU an update has to fit too. config: as it was given."""
    memory = config.engine.gpu_memory_utilization or SHARED
    engine = prepared.config.engine.model_copy(update={"engines": 1, "gpu_memory_utilization": memory})
    return replace(prepared, config=prepared.config.model_copy(update={"engine": engine}))


@dataclass(frozen=True)
class Site:
    """Where an engine runs. cost: times an update there."""

    generator: Sampler
    cost: Callable[[Forest], UpdateCost]


@contextmanager
def _site(prepared: Prepared, phase: Phase) -> Iterator[Site]:
    """On the configured cluster; without one in this process, which spares starting Ray."""
    config = prepared.config
    if not cluster_address(config):
        phase("starting the engine")
        limit = config.cluster.start_timeout
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # or the engine would listen at the network card's address
        os.environ |= time_limits(config)
        with _quiet_start(), _within(limit, "Starting the engine", "cluster.start_timeout"):
            engine = Engine(lone_engine_spec(prepared))

        def here(forest: Forest) -> UpdateCost:
            with _within(config.cluster.update_timeout, "Timing an update", "cluster.update_timeout"):
                return _cost(prepared, forest)

        yield Site(LocalEngine(engine, config.cluster.sample_timeout), here)
        return
    with engines_only(prepared, phase) as engines:
        (actor,) = engines.actors.values()

        def remotely(forest: Forest) -> UpdateCost:
            call = {"engine": actor.__ray_call__.remote(lambda _: _cost(prepared, forest))}
            cost: UpdateCost = wait(
                call, "timing an update", config.cluster.update_timeout, "cluster.update_timeout"
            )["engine"]
            return cost

        yield Site(engines, remotely)


@dataclass(frozen=True)
class LocalEngine:
    """`trainer.ports.Sampler`: an engine in this process. timeout: seconds of a call."""

    engine: Engine
    timeout: float

    def sample(self, requests: Sequence[SampleRequest]) -> tuple[Group, ...]:
        """See `Sampler.sample`."""
        with _within(self.timeout, "Sampling", "cluster.sample_timeout"):
            return self.engine.sample(requests)


def _cost(prepared: Prepared, forest: Forest) -> UpdateCost:
    """Where it is called."""
    config, gpu = prepared.config, hardware.has_gpu()
    return probe(
        prepared.model,
        hardware.dtype(config.model.dtype, gpu),
        config.model.trust_remote_code,
        config.training,
        gpu,
        forest,
        prepared.revision,
    )


@contextmanager
def _within(seconds: float, work: str, setting: str) -> Iterator[None]:
    """Raises RemoteError when the work in this process takes longer."""

    def late(number: int, frame: FrameType | None) -> None:
        raise RemoteError(f"{work} was not done within {seconds:g} seconds. If it is just slow, raise {setting}.")

    before: Any = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _quiet_start() -> Iterator[None]:
    """Keeps back what libraries print, some of them past Python, and shows it if they fail."""
    with tempfile.TemporaryFile() as kept:
        sys.stdout.flush()
        sys.stderr.flush()
        before = os.dup(1), os.dup(2)
        try:
            os.dup2(kept.fileno(), 1)
            os.dup2(kept.fileno(), 2)
            try:
                yield
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
        except Exception:
            kept.seek(0)
            os.write(before[1], printable(kept.read().decode(errors="replace"), line_end="\n").encode())
            raise
        finally:
            for number, saved in enumerate(before, 1):
                os.dup2(saved, number)
                os.close(saved)


def _console() -> Console:
    """Standard output, which may be a file or a pipe, and may not know every character of an answer."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    return Console() if sys.stdout.isatty() else Console(width=WIDTH)
