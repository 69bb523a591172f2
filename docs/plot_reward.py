"""Draws the reward curves of runs: `python docs/plot_reward.py runs/comparison [more runs] docs/reward.png`."""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes


def main(*runs: str, picture: str) -> None:
    """A panel for each of the runs' folders, into the PNG `picture`."""
    rows = -(-len(runs) // 2)
    figure, panels = plt.subplots(
        rows,
        min(len(runs), 2),
        figsize=(8 if len(runs) == 1 else 12, 3.6 * rows),
        layout="constrained",
        squeeze=False,
    )
    for run, axes in zip(runs, panels.flat, strict=False):
        draw(Path(run), axes)
    for axes in panels.flat[len(runs) :]:
        axes.axis("off")
    figure.savefig(picture, dpi=110)


def draw(run: Path, axes: Axes) -> None:
    """Mean reward and solved prompts over the seconds of the run."""
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((run / "summary.json").read_text())
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


if __name__ == "__main__":
    main(*sys.argv[1:-1], picture=sys.argv[-1])
