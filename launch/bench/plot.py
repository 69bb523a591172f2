"""A sweep's picture: throughput and cost against group size."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, ScalarFormatter

from launch.bench.measure import OURS, PLAIN, TRL, Measurement, machine
from launch.bench.report import Cell, cells
from launch.bench.sweep import POLICIES, Sweep

LABELS = {
    "generation": {OURS: "forking", PLAIN: "vLLM's n"},
    "update": {OURS: "token tree", PLAIN: "padded rows"},
    "step": {OURS: "Cohort", PLAIN: "vLLM's n and padded rows", TRL: "TRL"},
}
COLOURS = {OURS: "tab:blue", PLAIN: "tab:orange", TRL: "tab:green"}
LINES = {"untrained": ("-", "o"), "sharp": ("--", "s")}


def save(sweep: Sweep, measurements: Sequence[Measurement]) -> Path:
    """Draws the PNG; its path."""
    picture = sweep.output / f"bench-{sweep.bench}.png"
    draw(sweep, cells(measurements)).savefig(picture, dpi=110)
    return picture


def draw(sweep: Sweep, found: Sequence[Cell]) -> Figure:
    """Medians as lines, smallest and largest as bars, on logarithmic axes."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    throughput, cost = figure.subplots(1, 2)
    for policy in sweep.policies:
        for way, label in LABELS[sweep.bench].items():
            line = [cell for cell in found if (cell.policy, cell.way) == (policy, way)]
            if not line:
                continue
            line.sort(key=lambda cell: cell.num_generations)
            for axes, name in ((throughput, "samples_per_second"), (cost, "seconds")):
                spreads = [getattr(cell, name) for cell in line]
                axes.errorbar(
                    [cell.num_generations for cell in line],
                    [one.median for one in spreads],
                    yerr=[[one.median - one.low for one in spreads], [one.high - one.median for one in spreads]],
                    color=COLOURS[way],
                    linestyle=LINES[policy][0],
                    marker=LINES[policy][1],
                    markersize=5,
                    capsize=3,
                    label=f"{label}, {policy} (temperature {POLICIES[policy]:g})",
                )
    what = {"generation": "to sample", "update": "for one update", "step": "for one step"}[sweep.bench]
    throughput.set(title="throughput", ylabel="samples per second")
    cost.set(title="cost", ylabel=f"seconds {what}")
    for axes in (throughput, cost):
        axes.set(xlabel="completions of a prompt (num_generations)", xscale="log", yscale="log")
        axes.xaxis.set_major_locator(FixedLocator(sorted(sweep.sizes)))
        axes.xaxis.set_minor_locator(FixedLocator([]))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(which="major", color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = cost.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    here = machine()
    figure.suptitle(
        f"cohort bench {sweep.bench}: {Path(sweep.config.model.path).name}, {sweep.prompts} "
        f"prompt{'s' * (sweep.prompts > 1)}; {here['gpu'] or here['cpu']}, {here['cores']} cores",
        fontsize=11,
    )
    return figure
