"""`cohort bench learn`: reward against seconds, for us and for TRL's GRPOTrainer."""

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from configs.errors import ConfigError
from configs.loading import dump
from configs.schema import Config
from launch.bench import trl_peer
from launch.bench.measure import OURS, TRL, commit, environment, machine, versions
from launch.bench.sweep import adjusted, configured, options, whole_number, whole_numbers
from launch.errors import INTERRUPTED, RemoteError
from launch.prepare import prepare

HELP = """\
usage: cohort bench learn [CONFIG] [--option value ...] [--section.key value ...]

Trains on the configured task for so many seconds, from the start of the process, with several seeds, and draws the
mean reward of a step's samples against the seconds; with --peer trl, TRL's GRPOTrainer beside it: same machine,
model, prompts, reward, temperature, learning rate, lengths. Prints a table, and writes bench-learn.json and
bench-learn.png. CONFIG is a YAML file; without one it is the shipped comparison.yaml.

options:
  --seconds 180             of each run, starting included
  --seeds 0,1,2             one run each
  --peer trl                TRL as well, every group size with every seed
  --num-generations 8,16,64 group sizes of TRL; ours is that of the configuration
  --output runs/bench       folder for the results"""

EXAMPLES = {
    "--seconds": "180",
    "--seeds": "0,1,2",
    "--peer": "trl",
    "--num-generations": "8,16,64",
    "--output": "runs/bench",
}

LOOK = 0.2
"""Seconds between two looks at what a run has written."""

GRACE = 120.0
"""Seconds that a run has to end."""

LAST = 5
"""Steps whose mean is a curve's last reward."""

COLOURS = ("tab:green", "tab:orange", "tab:red", "tab:purple")


@dataclass(frozen=True)
class Curve:
    """One run. way: `ours` or `trl`. seconds: from the start of the process to the end of each step. rewards: mean of
    the step's samples."""

    way: str
    num_generations: int
    seed: int
    seconds: tuple[float, ...]
    rewards: tuple[float, ...]

    @property
    def last(self) -> float:
        """Mean reward of its last steps; nan if it came to none."""
        return mean(self.rewards[-LAST:]) if self.rewards else float("nan")

    def reaches(self, reward: float) -> float | None:
        """Seconds until a step had that mean reward; None if none had."""
        pairs = zip(self.seconds, self.rewards, strict=True)
        return next((seconds for seconds, mean_reward in pairs if mean_reward >= reward), None)


def bench(words: Sequence[str]) -> int:
    """Measures as asked; the exit status. Raises ConfigError."""
    if {"-h", "--help"} & {*words}:
        print(HELP)
        return 0
    given, others = options(words, EXAMPLES)
    if given.get("--peer", "trl") != "trl":
        raise ConfigError(f"--peer {given['--peer']} is not allowed; it must be trl.")
    seconds = whole_number(given, "--seconds", EXAMPLES)
    seeds = whole_numbers(given, "--seeds", EXAMPLES, least=0)
    sizes = whole_numbers(given, "--num-generations", EXAMPLES, least=2) if "--peer" in given else ()
    if sizes:
        trl_peer.require()
    config = configured(others)
    prepare(config, trains=True)  # refuses what cannot be run
    output = Path(given.get("--output", EXAMPLES["--output"]))
    output.mkdir(parents=True, exist_ok=True)
    console = Console()
    curves: list[Curve] = []
    for curve in measure(config, seconds, seeds, sizes, lambda text: console.print(Text(text, style="dim"))):
        curves.append(curve)
        console.print(Text(f"  {len(curve.rewards)} steps, reward {curve.last:.3f}"))
        save(output, config, seconds, curves)  # as far as it got
    console.print(table(curves))
    picture = output / "bench-learn.png"
    draw(config, curves).savefig(picture, dpi=110)
    console.print(Text(f"{output / 'bench-learn.json'}\n{picture}"))
    return 0


def measure(
    config: Config, seconds: float, seeds: Sequence[int], sizes: Sequence[int], phase: Callable[[str], None]
) -> Iterator[Curve]:
    """Ours of every seed, then TRL's of every group size and seed."""
    for seed in seeds:
        phase(f"ours, seed {seed}")
        yield _ours(of_seed(config, seed, seconds), seconds)
    for size in sizes:
        for seed in seeds:
            phase(f"TRL, groups of {size}, seed {seed}")
            yield _trl(of_seed(config, seed, seconds), size, seconds)


def of_seed(config: Config, seed: int, seconds: float) -> Config:
    """With that seed, the same questions as with any other, and nothing that would take time beside learning."""
    task = {"seed": config.seed if config.task.seed is None else config.task.seed}
    run = {
        "save_model": False,
        "max_seconds": seconds,
        "target_reward": None,
        "target_on": "train",
        "eval_steps": None,
        "evaluation_prompts": 0,
    }
    return adjusted(config, task=task, run=run, tracking={"wandb": "off"}).model_copy(update={"seed": seed})


def _ours(config: Config, seconds: float) -> Curve:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = adjusted(config, run={"directory": str(folder / "runs"), "name": "run"})
        (folder / "config.yaml").write_text(dump(config), encoding="utf-8")
        command = [sys.executable, "-m", "launch", "train", str(folder / "config.yaml")]
        log = folder / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(command, env=environment(), stdout=file, stderr=file)
        lines = list(_watched(process, folder / "runs" / "run" / "metrics.jsonl", seconds))
        if not lines or process.returncode not in (0, 3, 4, INTERRUPTED):
            said = log.read_text(errors="replace")[-4000:]
            raise RemoteError(f"The run ended with status {process.returncode} after {len(lines)} steps.\n{said}")
    rewards = tuple(json.loads(line)["reward_mean"] for _, line in lines)
    return Curve(OURS, config.sampling.num_generations, config.seed, tuple(at for at, _ in lines), rewards)


def _trl(config: Config, size: int, seconds: float) -> Curve:
    prepared = prepare(config)
    sampling, repeats = config.sampling, (config.run.max_steps or 10**6) - 1
    job = trl_peer.job_of(
        prepared, prepared.task.prompts, sampling.prompts_per_step, size, sampling.temperature, repeats
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.yaml").write_text(dump(config), encoding="utf-8")
        target = folder / "rewards.txt"
        process = trl_peer.started(job, folder, target, folder / "config.yaml", threads=config.training.threads)
        lines = list(_watched(process, target, seconds))
        if not lines or process.returncode not in (0, -signal.SIGTERM):
            said = trl_peer.said(folder)
            raise RemoteError(f"TRL ended with status {process.returncode} after {len(lines)} steps.\n{said}")
    return Curve(TRL, size, config.seed, tuple(at for at, _ in lines), tuple(float(line) for _, line in lines))


def _watched(process: "subprocess.Popen[bytes]", file: Path, seconds: float) -> Iterator[tuple[float, str]]:
    """Every line of the file, with the seconds at which it was seen; the process is ended when the time is over."""
    start, read = time.monotonic(), 0
    try:
        while True:
            ended, at = process.poll() is not None, time.monotonic() - start
            whole = file.read_text().rpartition("\n")[0].splitlines() if file.exists() else []
            yield from ((at, line) for line in whole[read:])
            read = len(whole)
            if ended or at >= seconds:
                return
            time.sleep(LOOK)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(GRACE)
        finally:
            process.kill()


def table(curves: Sequence[Curve]) -> Table:
    """A row for each way and group size: medians over the seeds."""
    best = max((curve.last for curve in curves if curve.way == TRL), default=None)
    found = Table(title="Reward against seconds, median (min-max) of the seeds", box=box.SIMPLE_HEAD)
    found.title_justify = "left"
    names = ["way", "group", "seeds", "steps", "last reward"]
    for name in (*names, f"seconds to {best:.3f}, TRL's best") if best is not None else names:
        found.add_column(name, justify="left" if name == "way" else "right", no_wrap=True)
    for way, size in dict.fromkeys((curve.way, curve.num_generations) for curve in curves):
        same = [curve for curve in curves if (curve.way, curve.num_generations) == (way, size)]
        rewards = [curve.last for curve in same]
        cells = [
            way,
            str(size),
            str(len(same)),
            f"{median(len(curve.rewards) for curve in same):g}",
            f"{median(rewards):.3f} ({min(rewards):.3f}-{max(rewards):.3f})",
        ]
        if best is not None:
            times = [curve.reaches(best) for curve in same]
            reached = [seconds for seconds in times if seconds is not None]
            never = f", {len(times) - len(reached)} never" if len(reached) < len(times) else ""
            cells.append((f"{median(reached):.0f}" if reached else "") + never.lstrip(", " * (not reached)))
        found.add_row(*cells)
    return found


def save(output: Path, config: Config, seconds: float, curves: Sequence[Curve]) -> None:
    """Writes bench-learn.json."""
    record: dict[str, Any] = {
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "seconds": seconds,
        "config": config.model_dump(mode="json"),
        "curves": [asdict(curve) for curve in curves],
    }
    (output / "bench-learn.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def draw(config: Config, curves: Sequence[Curve]) -> Figure:
    """A line for each run."""
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    axes = figure.subplots()
    sizes = list(dict.fromkeys(curve.num_generations for curve in curves if curve.way == TRL))
    colours = {(TRL, size): COLOURS[index % len(COLOURS)] for index, size in enumerate(sizes)}
    seen = set()
    for curve in curves:
        key = curve.way, curve.num_generations
        label = f"{'Cohort' if curve.way == OURS else 'TRL'}, groups of {curve.num_generations}"
        colour = "tab:blue" if curve.way == OURS else colours[key]
        axes.plot(curve.seconds, curve.rewards, color=colour, linewidth=1.3, label=None if key in seen else label)
        seen.add(key)
    axes.set(xlabel="seconds since the start of the process", ylabel="mean reward of a step's samples")
    axes.set_xlim(left=0)
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    here, task = machine(), config.task.name or Path(str(config.task.dataset)).stem
    figure.suptitle(
        f"cohort bench learn: {Path(config.model.path).name}, {task}; {here['gpu'] or here['cpu']}, "
        f"{here['cores']} cores",
        fontsize=11,
    )
    return figure
