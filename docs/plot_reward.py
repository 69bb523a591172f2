"""Draws the reward curve of a run: `python docs/plot_reward.py runs/comparison docs/reward.png`."""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt


def main(run: str, picture: str) -> None:
    """Mean reward and solved prompts over the seconds of the run in folder `run`, into the PNG `picture`."""
    steps = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((Path(run) / "summary.json").read_text())
    seconds = [step["seconds_total"] for step in steps]

    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    axes.plot(seconds, [step["reward_mean"] for step in steps], color="tab:blue", label="mean reward of the step")
    axes.axhline(1.0, color="0.8", linewidth=1, zorder=0)
    axes.set(xlabel="seconds of training", ylabel="mean reward", ylim=(-1.05, 1.1))
    solved = axes.twinx()
    solved.step(
        seconds,
        [step["prompts_solved"] for step in steps],
        where="post",
        color="tab:orange",
        label="prompts solved",
    )
    solved.set(ylabel="prompts solved", ylim=(0, summary["prompts"] * 1.1 / 1.05))
    axes.legend(handles=[*axes.lines[:1], *solved.lines], loc="lower right")
    for spine in (*axes.spines.values(), *solved.spines.values()):
        spine.set_visible(spine.spine_type in ("left", "right", "bottom"))
    axes.set_title(f"{Path(run).name}: {summary['prompts_solved']} of {summary['prompts']} prompts solved")
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:])
