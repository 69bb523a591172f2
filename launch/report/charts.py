"""The charts of a report, drawn by plotly."""

import html
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

from configs.printable import printable
from launch.report.read import Evaluated, RunRecord
from trainer.metric import Panel, declared
from trainer.metrics import StepMetrics
from trainer.signal.kinds import Kind
from trainer.update.report import RankReport

RUN_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's colours, told apart with any kind of colour vision."""

RUN_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

KIND_COLOURS: dict[Kind, str] = {
    "learning": "#0072b2",
    "solved": "#7cc6a4",
    "collapsed": "#f0a202",
    "floor": "#8c2f39",
}

PHASE_COLOURS = {
    "sample": "#4477aa",
    "score": "#ccbb44",
    "update": "#aa3377",
    "publish": "#66ccee",
}

FEW_STEPS = 40
"""Up to this many steps a line marks each of them."""

FEW_TICKS = 5
"""Up to this height whole numbers are labelled one by one."""

REPORTED = frozenset(name for name, _ in declared(RankReport))
"""Metrics that there are only where there was an update."""

HEIGHT = 320
"""Pixels of a chart with one or two panels."""

TEXT, FAINT, GRID, VEIL = "#1f2328", "#6b7280", "#e6e8eb", "rgba(255,255,255,0.7)"


@dataclass(frozen=True)
class Chart:
    """title, note: plain text; what it shows and how to read it. figure: plotly's."""

    title: str
    note: str
    figure: Any


@dataclass(frozen=True)
class Curves:
    """A panel, drawn: one line per run. values: of a run, [steps]. levels: height -> name of fixed lines across.
    at: the steps."""

    panel: Panel
    values: Callable[[RunRecord], NDArray[np.float64]]
    levels: Mapping[float, str]
    at: Callable[[RunRecord], NDArray[np.float64]] = lambda run: run.metric("step")


NOTES = {
    "Reward": "Mean over all samples of a step. It dips where hard prompts are sampled more often than solved ones.",
    "Distinct completions": "It falls as the policy grows sure. Near 0 with a low reward, it is sure of wrong "
    "answers.",
    "Completions": "How long they are, end of turn included.",
    "Temperature ladder": "A collapsed prompt is sampled hotter, rung by rung, until its completions differ.",
    "Gradient": "The norm before it is limited, on a logarithmic axis. Steps without an update are gaps.",
    "Policy": "How far it has moved, and whether engines and trainer hold the same one.",
    "Held-out prompts": "Prompts that are not trained on. pass@k: the chance of a right one among k samples.",
}
"""Charts with lines: title -> note. Their panels are those that metrics declare, then `_derived` ones."""


def charts(runs: Sequence[RunRecord]) -> list[tuple[Chart, ...]]:
    """All charts of runs that made steps, in rows: lines overlaid, stacked bars run by run."""
    groups = max(float(np.nanmax(sum(_kinds(run).values()), initial=0)) for run in runs)
    seconds = max(float(np.nanmax(run.metric("seconds_step"), initial=0)) for run in runs)
    several = len(runs) > 1
    kinds = tuple(
        Chart(
            _of("Kinds of groups", run, several),
            "In learning groups rewards differ. Collapsed: one text, not the best. Floor: many texts, one reward.",
            _bars(run, _kinds(run), KIND_COLOURS, "groups", "d", groups),
        )
        for run in runs
    )
    times = tuple(
        Chart(
            _of("Seconds by phase", run, several),
            "Where a step's time goes; packing is part of the update.",
            _bars(run, phases(run), PHASE_COLOURS, "seconds", ".2f", seconds),
        )
        for run in runs
    )
    curves = [*_declared(runs), *_derived(), *_held_out(runs)]
    lines = {
        title: Chart(title, note, _lines(runs, *(each for each in curves if each.panel.chart == title)))
        for title, note in NOTES.items()
        if any(each.panel.chart == title for each in curves)
    }
    reward = tuple(lines[title] for title in ("Reward", "Held-out prompts") if title in lines)
    policy = (lines["Gradient"], lines["Policy"])
    distinct, ladder, lengths = lines["Distinct completions"], lines["Temperature ladder"], lines["Completions"]
    if several:
        return [reward, kinds, times, (distinct, ladder), (lengths,), policy]
    return [reward, (*kinds, distinct), (*times, ladder), (lengths,), policy]


def _declared(runs: Sequence[RunRecord]) -> list[Curves]:
    """Of the metrics that declare a panel."""
    panels = [(name, metric.panel) for name, metric in declared(StepMetrics) if metric.panel]
    return [
        Curves(panel, partial(_metric, name), LEVELS[name](runs) if name in LEVELS else {})
        for name, panel in sorted(panels, key=lambda named: not named[1].first)
    ]


def _derived() -> tuple[Curves, ...]:
    """Of what takes more than one metric, or none."""
    return (
        Curves(Panel("Distinct completions", "share of the samples", ".2%"), distinct_share, {}),
        Curves(
            Panel("Temperature ladder", "prompts above the base temperature", "d", steps=True), prompts_above_base, {}
        ),
    )


def _held_out(runs: Sequence[RunRecord]) -> tuple[Curves, ...]:
    """Of the evaluations of held-out prompts, if any run has some."""
    sizes = [k for run in runs for one in _on_held_out(run) for k in one.pass_at]
    if not sizes:
        return ()
    most, chart = max(sizes), "Held-out prompts"

    def curve(title: str, of: Callable[[Evaluated], float], number_format: str) -> Curves:
        return Curves(
            Panel(chart, title, number_format, from_zero=False),
            lambda run: np.array([of(one) for one in _on_held_out(run)], np.float64),
            {},
            lambda run: np.array([one.step for one in _on_held_out(run)], np.float64),
        )

    return (
        curve("mean reward", lambda one: one.reward_sampled, ".3f"),
        curve("greedy accuracy", lambda one: one.accuracy_greedy, ".0%"),
        curve(f"pass@{most}", lambda one: one.pass_at.get(most, np.nan), ".0%"),
    )


def _on_held_out(run: RunRecord) -> list[Evaluated]:
    return [one for one in run.evaluations if one.on == "eval"]


def plotly_js() -> str:
    """The source of the library that draws the figures in a browser."""
    source: str = get_plotlyjs()
    return source


def distinct_share(run: RunRecord) -> NDArray[np.float64]:
    """[steps] distinct completions over samples."""
    return run.metric("distinct_completions") / run.metric("completions")


def prompts_above_base(run: RunRecord) -> NDArray[np.float64]:
    """[steps] prompts sampled above the base temperature."""
    hot = Counter(
        one.step for rollouts in run.rollouts.values() for one in rollouts if one.temperature > run.base_temperature
    )
    return np.array([float(hot[int(step)]) for step in run.metric("step")])


def phases(run: RunRecord) -> dict[str, NDArray[np.float64]]:
    """Phase -> [steps] seconds."""
    return {phase: run.metric(f"seconds_{phase}") for phase in PHASE_COLOURS}


def _kinds(run: RunRecord) -> dict[str, NDArray[np.float64]]:
    return {kind: run.metric(f"groups_{kind}") for kind in get_args(Kind)}


def _metric(name: str, run: RunRecord) -> NDArray[np.float64]:
    """[steps] of the metric. What ranks report is unknown where there was no update: its zeros there mean nothing."""
    values = run.metric(name)
    return np.where(run.metric("tree_tokens") == 0, np.nan, values) if name in REPORTED else values


def _reward_levels(runs: Iterable[RunRecord]) -> dict[float, str]:
    levels: dict[float, str] = {}
    for run in runs:
        if run.config:
            levels |= {run.config.run.target_reward: "target"} if run.config.run.target_reward is not None else {}
            levels |= {run.config.task.best_reward: "best"}
    return levels


def _clip_levels(runs: Iterable[RunRecord]) -> dict[float, str]:
    return {run.config.training.max_grad_norm: "clipped above" for run in runs if run.config}


LEVELS: Mapping[str, Callable[[Iterable[RunRecord]], dict[float, str]]] = {
    "reward_mean": _reward_levels,
    "grad_norm": _clip_levels,
}
"""Metric -> the fixed lines across its panel."""


def _of(title: str, run: RunRecord, several: bool) -> str:
    return f"{title}: {run.name}" if several else title


def _lines(runs: Sequence[RunRecord], *curves: Curves) -> Any:
    """One panel above the other, one line per run in each. A panel that no run has a value for is left out, unless
    it is the only one."""
    curves = tuple(each for each in curves if _known(each, runs)) or curves[:1]
    figure = make_subplots(
        rows=len(curves), cols=1, shared_xaxes=True, vertical_spacing=0.16 if len(curves) < 3 else 0.13
    )
    for row, each in enumerate(curves, 1):
        for number, run in enumerate(runs):
            values = each.values(run)
            few = np.isfinite(values).sum() <= FEW_STEPS
            figure.add_trace(
                go.Scatter(
                    x=each.at(run).tolist(),
                    y=_plain(values),
                    name=html.escape(printable(run.name)),
                    legendgroup=str(number),
                    showlegend=row == 1 and len(runs) > 1,
                    mode="lines+markers" if few else "lines",
                    marker={"size": 4},
                    line={
                        "color": RUN_COLOURS[number % len(RUN_COLOURS)],
                        "dash": RUN_DASHES[number % len(RUN_DASHES)],
                        "width": 1.75,
                        "shape": "hv" if each.panel.steps else "linear",
                    },
                    hovertemplate=f"%{{y:{each.panel.format}}}",
                ),
                row=row,
                col=1,
            )
        _across(figure, row, each, runs)
    return _styled(figure, HEIGHT + 80 * max(len(curves) - 2, 0))


def _known(curves: Curves, runs: Sequence[RunRecord]) -> bool:
    return any(np.isfinite(curves.values(run)).any() for run in runs)


def _across(figure: Any, row: int, curves: Curves, runs: Sequence[RunRecord]) -> None:
    """The panel's axis, title and levels."""
    panel, values = curves.panel, np.concatenate([curves.values(run) for run in runs])
    top, least = float(np.nanmax(values, initial=0)), float(np.nanmin(values, initial=np.inf, where=values > 0))
    ticks: int | str | None = 1 if panel.format == "d" and top <= FEW_TICKS else None
    if panel.log and top < 100 * least:
        ticks = "D2"  # 2 and 5 between the powers of ten
    figure.update_yaxes(
        row=row,
        col=1,
        type="log" if panel.log else "linear",
        rangemode="tozero" if panel.from_zero else "normal",
        range=[0, max(top, 1) * 1.1] if panel.format == "d" else None,
        dtick=ticks,
        hoverformat=panel.format,
        tickformat=".2~%" if panel.format.endswith("%") else "~e" if 0 < top < 1e-3 else "~g",
    )
    faint = {"showarrow": False, "xref": "paper", "font": {"size": 12, "color": FAINT}, "bgcolor": VEIL}
    title_at = figure.get_subplot(row, 1).yaxis.domain[1]
    figure.add_annotation(text=panel.title, x=0, xanchor="left", yref="paper", y=title_at, yanchor="bottom", **faint)
    for height, name in curves.levels.items():
        y = np.log10(height) if panel.log else height  # plotly places lines by value and texts by exponent
        figure.add_hline(y=height, row=row, col=1, line={"color": FAINT, "width": 1, "dash": "dot"})
        figure.add_annotation(
            text=f"{name} {height:g}",
            x=1,
            xanchor="right",
            yref=f"y{row}",
            y=y,
            yanchor="bottom" if panel.log or height > min(curves.levels) else "top",  # two may be close together
            **faint,
        )


def _bars(
    run: RunRecord,
    parts: dict[str, NDArray[np.float64]],
    colours: dict[Any, str],
    unit: str,
    number_format: str,
    top: float,
) -> Any:
    """Stacked bars over steps. top: of the axis, the same for runs side by side."""
    figure = go.Figure(
        [
            go.Bar(
                x=run.metric("step").tolist(),
                y=_plain(values),
                name=part,
                marker={"color": colours[part], "line": {"width": 0}},
                hovertemplate=f"%{{y:{number_format}}}",
            )
            for part, values in parts.items()
        ]
    )
    figure.update_layout(barmode="stack", bargap=0.1 if run.steps <= FEW_STEPS else 0, showlegend=True)
    figure.update_yaxes(range=[0, top * 1.05 or 1], title={"text": unit, "font": {"size": 12, "color": FAINT}})
    return _styled(figure, HEIGHT)


def _styled(figure: Any, height: int) -> Any:
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 48, "r": 12, "t": 24, "b": 40},
        font={"family": "system-ui, sans-serif", "size": 12, "color": TEXT},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "#b4bac2", "activecolor": FAINT},
        hovermode="x unified",
        hoverlabel={"bgcolor": "white", "bordercolor": GRID},
        legend={"orientation": "h", "y": -0.16, "yanchor": "top", "x": 0, "traceorder": "normal"},
    )
    figure.update_xaxes(showgrid=False, zeroline=False, linecolor=GRID, ticks="outside", tickcolor=GRID)
    first = min(min(trace.x, default=1) for trace in figure.data)
    last = max(max(trace.x, default=1) for trace in figure.data)
    figure.update_xaxes(
        range=[min(first, 1) - 0.6, last + 0.6], dtick=1 if last <= FEW_TICKS else None, tickformat="d"
    )
    figure.update_xaxes(hoverformat="d", unifiedhovertitle={"text": "step %{x}"})
    figure.update_yaxes(gridcolor=GRID, zeroline=False, automargin=True, nticks=6 if height == HEIGHT else 4)
    return figure


def _plain(values: NDArray[np.float64]) -> list[float | None]:
    """JSON has no nan; plotly leaves a gap at null."""
    return [float(value) if np.isfinite(value) else None for value in values]
