"""`cohort bench controller`: what the controller adds to a step besides the work of engines and ranks."""

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from configs.derived import derived
from configs.schema import Config
from launch.bench.instant import Instant, questions
from launch.bench.measure import Spread, commit, machine, output_folder, spread, versions
from trainer.evaluate import evaluate
from trainer.happened import Happened
from trainer.ports import Ports
from trainer.run import Run
from trainer.state import RunState
from trainer.step import judged, logged, step
from trainer.update.forest import pack

HELP = """\
usage: cohort bench controller [--output FOLDER]

Times real steps of the controller (curriculum, treatment, packing, metrics, history, diagnosis) while engines, reward
function and ranks answer at once: no model, one process, about a minute. Small and large steps, a large data set, and
step 20, 2,000 and 20,000 of one run. Prints a table, and writes bench-controller.json and bench-controller.png.

options:
  --output runs/bench   folder for the results"""

NUM_GENERATIONS, DISTINCT = 256, 32

REPEATS, WARM_UP = 9, 5
"""Steps that are timed, of which the table shows the median, and such steps before them."""

PHASES = {
    "choose": "which prompts",
    "treat": "kinds, advantages",
    "pack": "token trees",
    "remember": "state, metrics",
    "diagnose": "diagnosis",
}


@dataclass(frozen=True)
class Load:
    """prompts: in the data set. at: steps done before it is timed. aim: milliseconds, if there is one."""

    prompts: int
    prompts_per_step: int
    at: int
    aim: float | None


LOADS = (
    Load(64, 16, at=20, aim=None),
    Load(64, 16, at=2_000, aim=None),
    Load(64, 16, at=20_000, aim=None),
    Load(200_000, 16, at=20, aim=20.0),
    Load(4_096, 1_024, at=20, aim=100.0),
)


@dataclass(frozen=True)
class Timed:
    """milliseconds: of the controller, a step. phases: medians. state_kib: of the state as JSON."""

    load: Load
    milliseconds: Spread
    phases: dict[str, float]
    state_kib: float


def bench(arguments: Sequence[str]) -> int:
    """Measures as asked; the exit status. Raises ConfigError."""
    if {"-h", "--help"} & {*arguments}:
        print(HELP)
        return 0
    output = output_folder("controller", arguments)
    output.mkdir(parents=True, exist_ok=True)
    console = Console()
    timed = []
    for one in measure(LOADS, lambda text: console.print(Text(text, style="dim"))):
        timed.append(one)
        save(output, timed)  # as far as it got
    console.print(table(timed))
    picture = output / "bench-controller.png"
    draw(timed).savefig(picture, dpi=110)
    console.print(Text(f"{output / 'bench-controller.json'}\n{picture}"))
    return 0


def measure(loads: Sequence[Load], phase: Callable[[str], None]) -> Iterator[Timed]:
    """Each of the loads; those of the same size in one run."""
    states: dict[tuple[int, int], RunState] = {}
    for load in loads:
        size = load.prompts, load.prompts_per_step
        phase(f"{load.prompts_per_step} of {load.prompts:,} prompts × {NUM_GENERATIONS}, step {load.at:,}")
        run, ports = _run(load), Instant(DISTINCT)
        state = states.get(size) or _begun(run, ports)
        state = _forward(run, state, load.at)
        state, timed = _timed(load, run, state, ports)
        states[size] = state
        yield timed


def _timed(load: Load, run: Run, state: RunState, ports: Instant) -> tuple[RunState, Timed]:
    seconds: list[float] = []
    phases: dict[str, list[float]] = {name: [] for name in PHASES}
    for _ in range(REPEATS):
        ports.clear()
        start = time.perf_counter()
        state, happened = _step(run, state, ports)
        end = time.perf_counter()
        seconds.append(end - start - ports.seconds)
        training, began = run.config.training, time.perf_counter()
        if happened.lessons:
            pack(happened.lessons, training.ranks, training.micro_batch_tokens)
        packed = time.perf_counter() - began
        marks = {"treat and pack": ports.marks["choose"]} | ports.marks  # a step may have no update
        phases["choose"].append(marks["choose"] - start)
        phases["pack"].append(packed)
        phases["treat"].append(max(0.0, marks["treat and pack"] - marks["choose"] - packed))
        phases["remember"].append(marks["remember"] - ports.seconds - marks["treat and pack"])
        phases["diagnose"].append(end - marks["remember"])
    return state, Timed(
        load,
        spread(1000 * one for one in seconds),
        {name: 1000 * statistics.median(values) for name, values in phases.items()},
        len(json.dumps(state.to_json())) / 1024,
    )


def _forward(run: Run, state: RunState, at: int) -> RunState:
    """The state at that step. The steps up to there are real, and small: one prompt, one text."""
    small = _adjusted(run, prompts_per_step=1, num_generations=2), Instant(distinct=1)
    whole = run, Instant(DISTINCT)
    while state.step < at:
        now, ports = whole if at - state.step <= WARM_UP else small
        state, _ = _step(now, state, ports)
    return state


def _step(run: Run, state: RunState, instant: Instant) -> tuple[RunState, Happened]:
    """A step of the loop."""
    ports = Ports(instant, instant, instant, instant, instant)
    happened, _ = step(run, state, ports, time.monotonic)
    return judged(run, logged(run, state.after(run, happened), happened, ports), ports), happened


def _begun(run: Run, ports: Instant) -> RunState:
    return RunState.start(run, evaluate(run, run.evaluated, ports, ports, "before training"))


def _run(load: Load) -> Run:
    """It never stops by itself."""
    config = Config.model_validate(
        {
            "task": {"name": "comparison"},
            "sampling": {"prompts_per_step": load.prompts_per_step, "num_generations": NUM_GENERATIONS},
            "signal": {"stop_without_signal": False},
            "run": {"max_steps": 10**9, "target_reward": 1.0, "evaluation_prompts": 16},
        }
    )
    return Run(derived(config, gpus=0), questions(load.prompts), best_reward=1.0, dtype="float32")


def _adjusted(run: Run, **sampling: int) -> Run:
    config = run.config.model_copy(update={"sampling": run.config.sampling.model_copy(update=sampling)})
    return Run(config, run.prompts, run.best_reward, run.dtype)


def table(timed: Sequence[Timed]) -> Table:
    """A row for each."""
    found = Table(title="The controller's share of a step, milliseconds", title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("prompts", "of", "step", "controller", "aim", *PHASES, "state KiB"):
        found.add_column(name, justify="right", no_wrap=True)
    for one in timed:
        load, each = one.load, one.milliseconds
        found.add_row(
            f"{load.prompts_per_step:,}",
            f"{load.prompts:,}",
            f"{load.at:,}",
            f"{each.median:.1f} ({each.low:.1f}-{each.high:.1f})",
            "" if load.aim is None else f"{load.aim:g}",
            *(f"{one.phases[name]:.1f}" for name in PHASES),
            f"{one.state_kib:,.0f}",
        )
    return found


def save(output: Path, timed: Sequence[Timed]) -> None:
    """Writes bench-controller.json."""
    record: dict[str, Any] = {
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "num_generations": NUM_GENERATIONS,
        "distinct": DISTINCT,
        "repeats": REPEATS,
        "timed": [asdict(one) for one in timed],
    }
    (output / "bench-controller.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def draw(timed: Sequence[Timed]) -> Figure:
    """A bar for each load, by phase, with the aims."""
    figure = Figure(figsize=(9, 0.7 + 0.55 * len(timed)), layout="constrained")
    axes = figure.subplots()
    names = [f"{one.load.prompts_per_step:,} of {one.load.prompts:,} prompts, step {one.load.at:,}" for one in timed]
    left = [0.0] * len(timed)
    for phase, what in PHASES.items():
        widths = [one.phases[phase] for one in timed]
        axes.barh(names, widths, left=left, height=0.6, label=f"{phase}: {what}")
        left = [before + width for before, width in zip(left, widths, strict=True)]
    for row, one in enumerate(timed):
        axes.text(left[row], row, f"  {one.milliseconds.median:.1f} ms", va="center")
        if one.load.aim is not None:
            axes.plot([one.load.aim] * 2, [row - 0.4, row + 0.4], color="0.3", linestyle=":")
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max([*left, *(one.load.aim or 0.0 for one in timed)]))
    axes.set_xlabel(
        f"milliseconds a step, {NUM_GENERATIONS} completions a prompt, up to {DISTINCT} distinct; dotted: aim"
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(PHASES), frameon=False, fontsize=8)
    return figure
