"""Draws the reward curves of runs: `python docs/plot_reward.py runs/comparison [more runs] docs/reward.png`."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import yaml
from matplotlib.axes import Axes


def main(*folders: str, picture: str) -> None:
    """A panel for each task of the runs in the folders, into the PNG `picture`."""
    tasks: dict[str, list[Path]] = {}
    for folder in map(Path, folders):
        task = config(folder)["task"]
        tasks.setdefault(task["name"] or Path(task["dataset"]).stem, []).append(folder)
    rows = -(-len(tasks) // 2)
    figure, panels = plt.subplots(
        rows,
        min(len(tasks), 2),
        figsize=(8 if len(tasks) == 1 else 12, 3.6 * rows),
        layout="constrained",
        squeeze=False,
    )
    for (task, runs), axes in zip(tasks.items(), panels.flat, strict=False):
        draw_one(runs[0], axes) if len(runs) == 1 else draw_several(task, runs, axes)
    for axes in panels.flat[len(tasks) :]:
        axes.axis("off")
    figure.savefig(picture, dpi=110)


def draw_several(task: str, runs: Sequence[Path], axes: Axes) -> None:
    """Mean reward of several seeds over the seconds of the run."""
    for run in runs:
        steps, summary = metrics(run), json.loads((run / "summary.json").read_text())
        label = f"seed {config(run)['seed']}: {summary['reward_sampled']:.4f} after {summary['steps']} steps"
        axes.plot([step["seconds_total"] for step in steps], [step["reward_mean"] for step in steps], label=label)
    axes.axhline(1.0, color="0.8", linewidth=1, zorder=0)
    axes.set(xlabel="seconds of training", ylabel="mean reward of the step", ylim=(-1.05, 1.1), title=task)
    axes.legend(loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)


def draw_one(run: Path, axes: Axes) -> None:
    """Mean reward and solved prompts over the seconds of the run."""
    steps, summary = metrics(run), json.loads((run / "summary.json").read_text())
    seconds = [step["seconds_total"] for step in steps]
    axes.plot(seconds, [step["reward_mean"] for step in steps], color="tab:blue", label="mean reward of the step")
    axes.axhline(1.0, color="0.8", linewidth=1, zorder=0)
    axes.set(xlabel="seconds of training", ylabel="mean reward", ylim=(-1.05, 1.6))
    solved = axes.twinx()
    solved.step(
        seconds,
        [step["prompts_solved"] for step in steps],
        where="post",
        color="tab:orange",
        label="prompts solved",
    )
    solved.set(ylabel="prompts solved", ylim=(0, summary["prompts"] * 2.65 / 2.05))
    axes.legend(handles=[*axes.lines[:1], *solved.lines], loc="upper left")
    for spine in (*axes.spines.values(), *solved.spines.values()):
        spine.set_visible(spine.spine_type in ("left", "right", "bottom"))
    axes.set_title(
        f"{run.name}: sampled reward {summary['reward_sampled']:.3f}, greedy {summary['accuracy_greedy']:.0%}, "
        f"after {summary['steps']} steps"
    )


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def config(run: Path) -> Mapping[str, Any]:
    return yaml.safe_load((run / "config.yaml").read_text())


if __name__ == "__main__":
    main(*sys.argv[1:-1], picture=sys.argv[-1])
