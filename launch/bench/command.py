"""`cohort bench`."""

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module

from rich.console import Console
from rich.text import Text

from configs.derived import derived
from configs.errors import ConfigError
from configs.schema import Config
from launch.bench.measure import Measurement
from launch.bench.sweep import HELP, Sweep, adjusted, parse_sweep
from launch.prepare import Prepared, prepare
from launch.quiet import quiet

WIDTH = 132
"""Columns of the table where there is no terminal to fill."""


def bench(arguments: Sequence[str]) -> int:
    """Measures as asked; the exit status."""
    if arguments and arguments[0] in ("controller", "growth", "learn"):
        command = import_module(f"launch.bench.{arguments[0]}")
        return int(command.bench(arguments[1:]))
    if not arguments or {"-h", "--help"} & {*arguments}:
        print(HELP)
        return 0 if arguments else 2
    sweep = parse_sweep(arguments)
    sweep = replace(sweep, config=settled(sweep))
    if sweep.peer:
        from launch.bench import trl_peer

        trl_peer.require()
    sweep.output.mkdir(parents=True, exist_ok=True)
    quiet()

    from launch.bench import plot, report

    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)

    def phase(text: str) -> None:
        console.print(Text(text, style="dim"))

    phase("reading model and data")
    prepared = _prepared(sweep)
    sweep = replace(sweep, config=prepared.config)
    measurements: list[Measurement] = []
    for measurement in import_module(f"launch.bench.{sweep.bench}").measure(sweep, prepared, phase):
        measurements.append(measurement)
        console.print(Text(f"  {measurement.way}: {measurement.seconds:.2f} s"))
        report.save(sweep, measurements)  # as far as it got: a sweep takes its time
    for table in report.tables(sweep, measurements):
        console.print(table)
    picture = plot.save(sweep, measurements)
    console.print(Text(f"{report.path(sweep)}\n{picture}"))
    return 0


def settled(sweep: Sweep) -> Config:
    """The configuration: the policy stays as it is, every sample takes part, and no limit ends the run."""
    return adjusted(
        sweep.config,
        sampling={"num_generations": max(sweep.sizes), "prompts_per_step": sweep.prompts},
        training={
            "ranks": 1,
            "learning_rate": 1e-12,
            "lr_scheduler_type": "constant",
            "warmup_steps": 0,
            "mask_truncated_completions": False,
            "max_distinct_completions": None,
        },
        signal={"rescue": False, "without_best": "train", "stop_without_signal": False},
        run={
            "max_steps": sweep.repeats + 1,
            "max_seconds": None,
            "target_reward": None,
            "evaluation_prompts": 1,
        },
        cluster={"update_timeout": max(sweep.config.cluster.update_timeout, 3600.0)},
        tracking={"wandb": "off"},
    )


def _prepared(sweep: Sweep) -> Prepared:
    prepared = prepare(adjusted(sweep.config, sampling={"prompts_per_step": 1}))
    held = len(prepared.task.prompts)
    if sweep.prompts > held:
        raise ConfigError(
            f"--prompts: {sweep.prompts} is more than the task has; it must be at most {held}. "
            "Lower it, or raise task.size."
        )
    return replace(prepared, config=derived(sweep.config, prepared.gpus))
