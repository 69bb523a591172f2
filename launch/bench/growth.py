"""`cohort bench growth`: what the controller adds to a step as engines, ranks, prompts and answers become more."""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from configs.derived import derived
from configs.schema import Config
from generation.engine import SampleRequest
from generation.groups import Group
from launch.bench.instant import questions
from launch.bench.measure import Spread, commit, machine, output_folder, spread, versions
from launch.bench.simulated import SimulatedEngine, SimulatedRank
from launch.logger.run_folder import RunFolder
from launch.processes.cluster import connected
from launch.processes.pool import Engines, Ranks, dealt
from launch.processes.restarts import Restarts
from launch.processes.start import ended
from launch.processes.waiting import wait
from launch.processes.watch import Watch
from launch.task_scorer import TaskScorer
from rewards.judges import Answer
from rewards.prompts import Prompt, Verdict
from rewards.task import Task
from trainer.evaluate import evaluate
from trainer.evaluation import EvaluatedOn, Evaluation
from trainer.metrics import StepMetrics
from trainer.ports import Collect, Ports
from trainer.run import Run
from trainer.scored import ScoredGroup
from trainer.signal.treatment import Treated
from trainer.state import RunState
from trainer.step import judged, logged, packed, step
from trainer.update.forest import Batch
from trainer.update.report import RankReport

HELP = """\
usage: cohort bench growth [--output FOLDER]

Times real steps of the controller with real processes, 1 to 64 engines and ranks that answer at once, 16 to 1,024
prompts x 256 completions, all distinct, of 8 to 8,192 tokens, and compares that with the seconds that engines and
ranks of the speeds measured in docs/gpu.md would take. No model; up to 128 processes of 75 MiB besides the answers;
ten to fifteen minutes. Prints a table, and writes bench-growth.json and bench-growth.png.

options:
  --output runs/bench   folder for the results"""

ENGINE_SPEED = 15_600
"""Tokens/s that an engine samples: docs/gpu.md, one H200, 4 prompts x 256, no two samples alike, 0.6B parameters.
A larger model is slower, and the controller's share smaller."""

RANK_SPEED = 35_600
"""Tokens/s of an update on a rank: the same place and model."""

PUBLISH_SECONDS = 0.23
"""The same place and model."""

NUM_GENERATIONS = 256

AIM = 0.05
"""Of a step's seconds."""

REPEATS, ENOUGH = 3, 20.0
"""Steps that are timed, of which the table shows the median, and the seconds after which there are no more."""

AT_ONCE = 4
"""Processes that start together: Ray gives each a minute."""

START_SECONDS = 600.0
"""That processes have to start, or to answer a question that is not timed."""

RIGHT, WRONG = Verdict(1.0, "correct"), Verdict(-0.5, "wrong")

PHASES = {
    "publish": "calls of weight sync",
    "deal": "which prompts, requests to engines",
    "collect": "groups from engines",
    "score": "rewards",
    "treat": "kinds, advantages",
    "pack": "token trees",
    "send": "trees to ranks, reports back",
    "remember": "state, metrics, files",
}


@dataclass(frozen=True)
class Load:
    """tokens: of each completion. distinct: `training.max_distinct_completions`; None is all of them."""

    engines: int
    ranks: int
    prompts: int
    tokens: int
    distinct: int | None = 16


MIDDLE = Load(8, 8, 64, 128)

LOADS = (
    MIDDLE,
    Load(8, 8, 64, 128, None),
    Load(1, 8, 64, 128),
    Load(8, 1, 64, 128),
    Load(8, 8, 16, 128),
    Load(8, 8, 256, 128),
    Load(8, 8, 1024, 128),
    Load(8, 8, 64, 8),
    Load(8, 8, 64, 1024),
    Load(8, 8, 64, 1024, None),
    Load(8, 8, 64, 8192),
    Load(64, 8, 64, 128),
    Load(8, 64, 64, 128),
    Load(64, 64, 64, 128, None),
    Load(64, 64, 64, 8),
    Load(64, 64, 1024, 8),
    Load(64, 64, 1024, 128),
    Load(64, 64, 64, 1024),
)
"""One thing at a time around the middle, then corners."""


@dataclass(frozen=True)
class Timed:
    """seconds: of the controller, a step. busy: of them, those in which its process computed. phases: medians.
    simulated: seconds of engines and ranks."""

    load: Load
    seconds: Spread
    busy: float
    phases: dict[str, float]
    simulated: float

    @property
    def share(self) -> float:
        """Of a step."""
        return self.seconds.median / (self.simulated + self.seconds.median)


def bench(arguments: Sequence[str]) -> int:
    """Measures as asked; the exit status. Raises ConfigError."""
    if {"-h", "--help"} & {*arguments}:
        print(HELP)
        return 0
    output = output_folder("growth", arguments)
    output.mkdir(parents=True, exist_ok=True)
    console = Console()
    timed = []
    for one in measure(LOADS, lambda text: console.print(Text(text, style="dim"))):
        timed.append(one)
        save(output, timed)  # as far as it got
    console.print(table(timed))
    picture = output / "bench-growth.png"
    draw(timed).savefig(picture, dpi=110)
    console.print(Text(f"{output / 'bench-growth.json'}\n{picture}"))
    return 0


def measure(loads: Sequence[Load], phase: Callable[[str], None]) -> Iterator[Timed]:
    """Each of the loads, on processes that are started when the first load needs them."""
    phase("starting Ray")
    watch = Watch()
    with connected(_run(loads[0]).config), ended(watch):
        processes = _Processes(watch, phase)
        for load in loads:
            phase(_named(load))
            with tempfile.TemporaryDirectory() as folder:
                run = _run(load)
                yield _timed(load, run, _Measured(load, run.config, processes, watch, Path(folder)))


def simulated(load: Load, groups: Sequence[Group], batch: Batch | None) -> float:
    """Seconds that engines, ranks and weight sync would take for them; each waits for the slowest."""
    sampled = [int(group.lengths.sum()) for group in groups]
    slowest_engine = max(sum(sampled[place] for place in share) for share in dealt(sampled, load.engines))
    updated = [sum(len(forest.token_ids) for forest in forests) for forests in (batch.forests if batch else ())]
    return slowest_engine / ENGINE_SPEED + max(updated, default=0) / RANK_SPEED + PUBLISH_SECONDS


class _Processes:
    """Engines and ranks, as many as were ever needed."""

    def __init__(self, watch: Watch, phase: Callable[[str], None]) -> None:
        self._watch, self._phase = watch, phase
        self._started: dict[str, Any] = {}

    def take(self, kind: type, name: str, number: int) -> dict[str, Any]:
        """The first so many, by name. kind: of process. name: `engine` or `rank`."""
        names = [f"{name} {index}" for index in range(number)]
        if missing := [one for one in names if one not in self._started]:
            self._phase(f"starting {missing[0]} to {missing[-1]}")
        process: Any = ray.remote(kind)
        for some in (missing[first : first + AT_ONCE] for first in range(0, len(missing), AT_ONCE)):
            for one in some:
                self._started[one] = process.options(num_cpus=0).remote()
                self._watch.add(one, self._started[one])
            wait({one: self._started[one].ready.remote() for one in some}, "starting", START_SECONDS, "nothing")
        return {one: self._started[one] for one in names}


class _Measured:
    """All ports: real ones, and how long each took.

    seconds: of each phase since `clear`. groups, batch: of the latest step.
    """

    def __init__(self, load: Load, config: Config, processes: _Processes, watch: Watch, folder: Path) -> None:
        self._actors = processes.take(SimulatedEngine, "engine", load.engines)
        ranks = processes.take(SimulatedRank, "rank", load.ranks)
        self._everywhere("answer_with", load.tokens)
        actors = list(self._actors.values())
        self._ranks = Ranks(ranks, config, "float32", "shared_memory", watch)
        self._engines = Engines(
            load.engines, lambda index: actors[index], config, self._ranks, watch, Restarts(0, print)
        )
        self._scorer = TaskScorer(Task((), 1.0, _judge), 1)
        self._folder = RunFolder(folder)
        self._version = 0
        self.groups: tuple[Group, ...] = ()
        self.batch: Batch | None = None
        self.clear()

    def clear(self) -> None:
        """Before a step that is to be timed."""
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.making()

    def making(self) -> float:
        """Seconds since it was asked last in which no engine had made up all of its groups."""
        seconds: float = max(self._everywhere("making").values())
        return seconds

    def sample(self, requests: Sequence[SampleRequest]) -> tuple[Group, ...]:
        """See `Sampler.sample`."""
        with self._during("deal"):
            collect = self._engines.begin(requests)
        with self._during("collect"):
            self.groups = collect(self._version)
        return self.groups

    def begin(self, requests: Sequence[SampleRequest]) -> Collect:
        """See `Generator.begin`."""
        return self._engines.begin(requests)

    def score(self, groups: Sequence[Group]) -> tuple[ScoredGroup, ...]:
        """See `Scorer.score`."""
        with self._during("score"):
            return self._scorer.score(groups)

    def update(self, batch: Batch) -> RankReport:
        """See `Learner.update`."""
        self.batch = batch
        with self._during("send"):
            return self._ranks.update(batch)

    def sync(self, policy_version: int) -> None:
        """See `WeightSync.sync`."""
        self._version = policy_version
        with self._during("publish"):
            self._engines.sync(policy_version)

    def phase(self, text: str) -> None:
        """See `Logger.phase`."""

    def alarm(self, text: str) -> None:
        """See `Logger.alarm`."""

    def note(self, text: str) -> None:
        """See `Logger.note`."""

    def evaluation(self, on: EvaluatedOn, evaluation: Evaluation) -> None:
        """See `Logger.evaluation`."""

    def step(self, step: StepMetrics, groups: Sequence[Treated]) -> None:
        """See `Logger.step`."""
        self._folder.step(step, groups)

    @contextmanager
    def _during(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[phase] += time.perf_counter() - start

    def _everywhere(self, method: str, *arguments: Any) -> dict[str, Any]:
        calls = {name: getattr(actor, method).remote(*arguments) for name, actor in self._actors.items()}
        return wait(calls, "asking the engines", START_SECONDS, "nothing")


def _timed(load: Load, run: Run, measured: _Measured) -> Timed:
    ports = Ports(measured, measured, measured, measured, measured)
    state = RunState.start(run, evaluate(run, run.evaluated, measured, measured, "before training"))
    state, _, _ = _step(run, state, ports, measured)  # connects ranks and engines, and makes up the groups
    found: list[tuple[dict[str, float], float, float]] = []
    began = time.perf_counter()
    while len(found) < REPEATS and (not found or time.perf_counter() - began < ENOUGH):
        state, phases, busy = _step(run, state, ports, measured)
        found.append((phases, busy, simulated(load, measured.groups, measured.batch)))
    return Timed(
        load,
        spread(sum(phases.values()) for phases, _, _ in found),
        statistics.median(busy for _, busy, _ in found),
        {name: statistics.median(phases[name] for phases, _, _ in found) for name in PHASES},
        statistics.median(seconds for _, _, seconds in found),
    )


def _step(run: Run, state: RunState, ports: Ports, measured: _Measured) -> tuple[RunState, dict[str, float], float]:
    """A step of the loop; the state after it, seconds of each phase, and of this process's work."""
    measured.clear()
    before, began, busy = state, time.perf_counter(), time.process_time()
    happened, _ = step(run, state, ports, time.perf_counter)
    stepped = time.perf_counter()
    state = judged(run, logged(run, state.after(run, happened), happened, ports), ports)
    over, busy = time.perf_counter(), time.process_time() - busy
    phases = measured.seconds
    start = time.perf_counter()
    packed(run, before, happened.treated)  # once more, by itself
    both = stepped - began - sum(phases.values())
    phases["pack"] = min(time.perf_counter() - start, both)
    phases["treat"] = both - phases["pack"]
    phases["remember"] = over - stepped
    phases["collect"] -= measured.making()
    return state, phases, busy


def _run(load: Load) -> Run:
    """It never stops by itself."""
    config = Config.model_validate(
        {
            "task": {"name": "comparison"},
            "engine": {"engines": load.engines},
            "sampling": {
                "prompts_per_step": load.prompts,
                "num_generations": NUM_GENERATIONS,
                "max_completion_length": load.tokens,
            },
            "training": {"ranks": load.ranks, "max_distinct_completions": load.distinct},
            "signal": {"stop_without_signal": False},
            "run": {"max_steps": 10**9, "target_reward": None, "evaluation_prompts": 1},
        }
    )
    return Run(derived(config, gpus=0), questions(4 * load.prompts), best_reward=1.0, dtype="float32")


def _judge(prompt: Prompt, answers: Sequence[Answer]) -> list[Verdict]:
    return [RIGHT if answer.text.startswith("Yes") else WRONG for answer in answers]


def table(timed: Sequence[Timed]) -> Table:
    """A row for each."""
    found = Table(title="The controller's share of a step, seconds", title_justify="left", box=box.SIMPLE_HEAD)
    for name in (
        "engines",
        "ranks",
        "prompts",
        "tokens",
        "distinct",
        "simulated",
        "controller",
        "busy",
        "share",
        *PHASES,
    ):
        found.add_column(name, justify="right", no_wrap=True)
    for one in timed:
        load = one.load
        found.add_row(
            f"{load.engines}",
            f"{load.ranks}",
            f"{load.prompts:,}",
            f"{load.tokens:,}",
            f"{load.distinct or 'all'}",
            f"{one.simulated:,.2f}",
            f"{one.seconds.median:.2f}",
            f"{one.busy:.2f}",
            f"{one.share:.1%}",
            *(f"{one.phases[name]:.2f}" for name in PHASES),
        )
    return found


def save(output: Path, timed: Sequence[Timed]) -> None:
    """Writes bench-growth.json."""
    record: dict[str, Any] = {
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "num_generations": NUM_GENERATIONS,
        "engine_speed": ENGINE_SPEED,
        "rank_speed": RANK_SPEED,
        "publish_seconds": PUBLISH_SECONDS,
        "repeats": REPEATS,
        "timed": [asdict(one) | {"share": one.share} for one in timed],
    }
    (output / "bench-growth.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def draw(timed: Sequence[Timed]) -> Figure:
    """A bar for each load, by phase, with the aim."""
    figure = Figure(figsize=(9, 1.2 + 0.4 * len(timed)), layout="constrained")
    axes = figure.subplots()
    names = [_named(one.load) for one in timed]
    left = [0.0] * len(timed)
    for phase, what in PHASES.items():
        widths = [100 * one.phases[phase] / (one.simulated + one.seconds.median) for one in timed]
        axes.barh(names, widths, left=left, height=0.6, label=f"{phase}: {what}")
        left = [before + width for before, width in zip(left, widths, strict=True)]
    for row, one in enumerate(timed):
        whole = one.simulated + one.seconds.median
        axes.text(left[row], row, f"  {one.share:.1%} of {whole:,.1f} s", va="center")
    axes.axvline(100 * AIM, color="0.7", linestyle=":", zorder=0)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25 * max([*left, 100 * AIM]))
    axes.set_ylabel("engines + ranks, prompts × tokens")
    axes.set_xlabel(f"controller, % of a step, {NUM_GENERATIONS} completions a prompt, all distinct; dotted: aim")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def _named(load: Load) -> str:
    every = "" if load.distinct else ", all in the update"
    return f"{load.engines} + {load.ranks}, {load.prompts:,} × {load.tokens:,}{every}"
