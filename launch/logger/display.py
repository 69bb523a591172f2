"""What a run shows while it goes on, and at its end."""

import io
import os
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import pairwise
from types import TracebackType
from typing import Any, Self, TextIO

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from configs.printable import printable
from configs.schema import Config
from launch.logger.run_folder import RunFolder
from trainer.ending import Result, Stop, Target
from trainer.evaluation import Evaluation, PromptResult
from trainer.metrics import StepMetrics

WIDTH = 110
"""Columns of the display at most, and of the final table where there is no terminal to fill."""

HISTORY = 48
"""Columns of the reward history."""

ROWS = 32
"""Prompts in the final table at most; summary.json has all of them."""

QUESTION = 56
"""Characters of a question in the final table at most."""

NAMED = 5
"""Prompts in a sentence at most."""

BLOCKS = "▁▂▃▄▅▆▇█"

COLORS = {"learning": "cyan", "solved": "green", "collapsed": "yellow", "floor": "red"}


class Display:
    """A live picture of the run in a terminal; elsewhere, one line per stage and step.

    Use it as a context manager: leaving it, by Ctrl-C too, gives the terminal back. What others print
    meanwhile appears above the picture.
    """

    def __init__(self, config: Config, console: Console | None = None) -> None:
        self._config = config
        self._console = console or default_console(Outlived(sys.stdout))
        self._stage: tuple[str, float] | None = None  # text, and when it began
        self._step: tuple[StepMetrics, float] | None = None  # the latest, and when it came
        self._rewards: list[float] = []
        self._live: Live | None = None
        if self._console.is_interactive:
            self._live = Live(console=self._console, get_renderable=self._picture, refresh_per_second=2)

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_stage("✓" if kind is None else "✗")
        if self._live:
            self._live.stop()

    def phase(self, text: str) -> None:
        """A stage of the run begins ("starting engines"); it lasts until the next, or until a step."""
        self._end_stage("✓")
        self._stage = (text, time.monotonic())
        if self._live:
            self._live.refresh()
        else:
            self._print(Text(text))

    def step(self, metrics: StepMetrics) -> None:
        self._end_stage("✓")
        self._step = (metrics, time.monotonic())
        self._rewards.append(metrics.reward_mean)
        if self._live:
            self._live.refresh()
        else:
            self._print(Text(self._line(metrics)))

    def evaluation(self, evaluation: Evaluation) -> None:
        """Held-out prompts were evaluated; a line that stays on the screen."""
        self._print(Text(f"held-out prompts at step {evaluation.step}: {_measured(evaluation)}"))

    def alarm(self, text: str) -> None:
        """A warning, which stays on the screen."""
        self._print(Text.assemble(("Warning: ", "bold yellow"), text))

    def note(self, text: str) -> None:
        """A line that stays on the screen."""
        self._print(Text(text))

    def result(self, result: Result, folder: RunFolder) -> None:
        """The prompts before and after, how the run ended, and where its files are; ends the live picture."""
        self.__exit__(None, None, None)
        self._console.print(_prompt_table(result, self._config.task.best_reward), width=self._width)
        for text in (*_conclusion(result), Text(), *_files(folder)):
            self._print(text)

    def _end_stage(self, mark: str) -> None:
        stage, self._stage = self._stage, None
        if stage and self._live:
            self._print(Text.assemble((mark, "green" if mark == "✓" else "red"), " ", _timed(*stage)))

    def _print(self, text: Text) -> None:
        self._console.print(shown(text), soft_wrap=True)

    @property
    def _width(self) -> int:
        return min(WIDTH, self._console.width)

    def _picture(self) -> RenderableType:
        step, stage = self._step, self._stage
        parts: list[RenderableType] = []
        if step:
            metrics, came = step
            elapsed = metrics.seconds_total + (0 if stage else time.monotonic() - came)
            parts.append(self._panel(metrics, elapsed))
        if stage:
            parts.append(Text.assemble(("• ", "cyan"), _timed(*stage)))
        return Group(*parts)

    def _panel(self, metrics: StepMetrics, elapsed: float) -> Panel:
        config = self._config
        target = config.run.target_reward
        reward = Text.assemble((f"{metrics.reward_mean:.3f}", "bold"))
        if len(self._rewards) > 1:
            history = sparkline(self._rewards, HISTORY, config.task.best_reward)
            reward.append("  ").append(history, "green")
        if target is not None:
            reward.append(f"  target {target:g}", "dim")

        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(no_wrap=True, overflow="ellipsis")
        solved = (f"  {metrics.prompts_solved} prompts solved", "dim")
        grid.add_row("step", Text.assemble((f"{metrics.step}", "bold"), solved))
        grid.add_row("reward", reward)
        grid.add_row("groups", _kinds(metrics))
        grid.add_row("completions", f"{metrics.distinct_completions} distinct of {metrics.completions}")
        grid.add_row("seconds", _seconds(metrics))
        grid.add_row("limit", self._limit(metrics.step, elapsed))
        title = Text(f" {printable(config.run.name or config.task.name or 'cohort')} ", "bold")
        return Panel(grid, title=title, title_align="left", border_style="dim", width=self._width)

    def _limit(self, step: int, elapsed: float) -> RenderableType:
        run = self._config.run
        shares = [elapsed / run.max_seconds] if run.max_seconds else []
        shares += [step / run.max_steps] if run.max_steps else []
        done = max(shares, default=0.0)
        bar = ProgressBar(total=1.0, completed=done, width=HISTORY // 2, complete_style="cyan")
        row = Table.grid(padding=(0, 2))
        row.add_row(bar, " or ".join(self._left(step, elapsed)) + " left")
        return row

    def _left(self, step: int, elapsed: float) -> list[str]:
        run = self._config.run
        left = [_clock(max(run.max_seconds - elapsed, 0))] if run.max_seconds else []
        return left + ([f"{max(run.max_steps - step, 0)} steps"] if run.max_steps else [])

    def _line(self, metrics: StepMetrics) -> str:
        """A step where there is no terminal."""
        return "  ".join(
            (
                f"step {metrics.step:>3}",
                f"reward {metrics.reward_mean:6.3f}",
                f"learning {metrics.groups_learning}  solved {metrics.groups_solved}",
                f"collapsed {metrics.groups_collapsed}  floor {metrics.groups_floor}",
                f"distinct {metrics.distinct_completions:>4}/{metrics.completions}",
                _seconds(metrics, width=4),
                f"left {' or '.join(self._left(metrics.step, metrics.seconds_total))}",
            )
        )


def sparkline(values: Sequence[float], width: int, best: float) -> str:
    """A curve of at most `width` blocks, from the lowest of `values` up to `best` (or the highest, if above).

    More values than that are averaged, so that the whole run stays in sight.
    """
    if not values:
        return ""
    columns = min(width, len(values))
    edges = [len(values) * column // columns for column in range(columns + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(best, *means)
    share = [(mean - low) / (high - low) if high > low else 1.0 for mean in means]
    return "".join(BLOCKS[round(part * (len(BLOCKS) - 1))] for part in share)


class Outlived:
    """A stream that may be closed, full or hung up long before the run is done: what follows is dropped, and the
    run goes on (its folder has every figure)."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except OSError:
            self._drop()
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._drop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _drop(self) -> None:
        """What the stream holds already must go somewhere, or Python ends with status 120."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


def default_console(file: Any = None) -> Console:
    """Standard output, which may be a file or a pipe, and may not know every character of an answer. file: what to
    write to in its place."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    if sys.stdout.isatty():
        return Console(file=file)
    if Console().is_jupyter and find_spec("ipywidgets"):
        return Console(width=WIDTH, force_interactive=True)
    return Console(file=file, width=WIDTH, force_interactive=False)


def _kinds(metrics: StepMetrics) -> Text:
    counts = {
        "learning": metrics.groups_learning,
        "solved": metrics.groups_solved,
        "collapsed": metrics.groups_collapsed,
        "floor": metrics.groups_floor,
    }
    parts = [Text(f"{count} {kind}", COLORS[kind] if count else "dim") for kind, count in counts.items()]
    return Text("  ").join(parts)


def _seconds(metrics: StepMetrics, width: int = 0) -> str:
    phases = {
        "sample": metrics.seconds_sample,
        "score": metrics.seconds_score,
        "update": metrics.seconds_update,
        "publish": metrics.seconds_publish,
        "step": metrics.seconds_step,
    }
    return "  ".join(f"{phase} {seconds:{width}.1f}s" for phase, seconds in phases.items())


def _prompt_table(result: Result, best_reward: float) -> Table:
    """Prompt by prompt, before and after; of many prompts, first of all those that are not solved."""
    before = {prompt.prompt_id: prompt for prompt in result.before.prompts}
    chosen = sorted(result.after.prompts, key=lambda prompt: prompt.solved)[:ROWS]
    shown = [prompt for prompt in result.after.prompts if prompt in chosen]
    hidden = len(result.after.prompts) - len(shown)

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption_justify="left")
    table.add_column("\nquestion")
    for when in ("before", "after"):
        table.add_column(f"greedy\n{when}", no_wrap=True, overflow="ellipsis", min_width=8, max_width=14)
    for when in ("before", "after"):
        table.add_column(f"sampled\n{when}", justify="right", min_width=7)
    table.add_column("\nsolved", justify="center", min_width=6)
    for now in shown:
        then = before[now.prompt_id]
        question = one_line(now.question)
        question.truncate(QUESTION, overflow="ellipsis")
        table.add_row(
            question,
            _answer(then, best_reward),
            _answer(now, best_reward),
            f"{then.sampled_reward:.3f}",
            f"{now.sampled_reward:.3f}",
            Text("✓", "green") if now.solved else Text("✗", "red"),
        )
    if hidden:
        table.caption = f"{hidden} more in summary.json"
    return table


def _conclusion(result: Result) -> list[Text]:
    before, after = result.before, result.after
    style, head = {
        Target.REACHED: ("bold green", "Target reached"),
        Target.MISSED: ("bold red", "Target not reached"),
        Target.NONE: ("bold", "Done"),
    }[result.target]
    if result.stop is Stop.CANNOT_LEARN:
        style, head = "bold red", "Stopped"
    held_out = []
    if result.held_out:
        for when, evaluation in (("before", result.held_out.before), ("after", result.held_out.latest)):
            held_out.append(Text(f"Held-out prompts {when}: {_measured(evaluation)}."))
    cause = [Text(result.diagnosis.verdict), Text(result.diagnosis.advice, "bold")] if result.diagnosis else []
    return [
        Text.assemble(
            (head, style),
            f" after {result.steps} steps in {_clock(result.seconds)}",
            f": {after.prompts_solved} of {len(after.prompts)} prompts solved, "
            f"sampled reward {before.reward_sampled:.3f} → {after.reward_sampled:.3f}, "
            f"greedy accuracy {before.accuracy_greedy:.0%} → {after.accuracy_greedy:.0%}."
            if after.prompts
            else ".",
        ),
        *held_out,
        Text(result.stopped),
        *_never_right(result.never_right),
        *cause,
    ]


def _never_right(prompts: Sequence[str]) -> list[Text]:
    if not prompts:
        return []
    named = ", ".join(prompts[:NAMED]) + (" and others" if len(prompts) > NAMED else "")
    return [Text(f"No step sampled a right answer to {len(prompts)} of the prompts: {named}.")]


def _measured(evaluation: Evaluation) -> str:
    """An evaluation in a line."""
    most = max(evaluation.pass_at)
    return (
        f"reward {evaluation.reward_sampled:.3f}, greedy accuracy {evaluation.accuracy_greedy:.0%}, "
        f"pass@1 {evaluation.pass_at[1]:.3f}, pass@{most} {evaluation.pass_at[most]:.3f} "
        f"({len(evaluation.prompts)} prompts)"
    )


def _files(folder: RunFolder) -> list[Text]:
    entries = sorted(folder.path.iterdir())
    names = "  ".join(entry.name + ("/" if entry.is_dir() else "") for entry in entries)
    return [Text.assemble("Files in ", (str(folder.path), "bold"), f": {names}")]


def _answer(prompt: PromptResult, best_reward: float) -> Text:
    answer = one_line(prompt.greedy)
    answer.stylize("green" if prompt.greedy_reward >= best_reward else "red")
    return answer


def shown(text: Text) -> Text:
    """The same, fit for a terminal; styles stay where they are."""
    text.plain = printable(text.plain, line_end="\n")
    return text


def one_line(text: str) -> Text:
    """Questions and answers are anyone's text: no line breaks, no control characters."""
    return Text(printable(" ".join(text.split())))


def _timed(text: str, began: float) -> Text:
    return Text.assemble(printable(text), (f"  {time.monotonic() - began:.0f} s", "dim"))


def _clock(seconds: float) -> str:
    """75.0 is 1:15, and 3675.0 is 1:01:15."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
