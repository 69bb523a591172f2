"""The page of a report: verdicts, charts, prompts. Everything that a model or a user wrote is escaped here."""

import base64
import hashlib
import html
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, groupby
from pathlib import Path

from configs.printable import printable
from configs.schema import Config
from launch.report.charts import Chart, plotly_js
from launch.report.read import Ending, Rollout, RunRecord
from trainer.ending import Target
from trainer.signal.kinds import Kind

HERE = Path(__file__).parent

PROMPTS = 256
"""Prompts in a run's table at most, those with the lowest reward first; groups.jsonl has all of them."""

COMPLETIONS = 3
"""Of a group at most, the most frequent ones."""

QUESTION, COMPLETION = 240, 120
"""Characters of a question and of a completion at most; groups.jsonl has all of them."""

HEIGHTS: dict[Kind, int] = {"solved": 13, "learning": 10, "collapsed": 7, "floor": 4}
"""Of a kind in the strip, of 13: the strip can be read without its colours."""


STATES = {
    Target.REACHED: ("reached", "Target reached"),
    Target.MISSED: ("missed", "Target not reached"),
    Target.NONE: ("done", "Done"),
}
"""Class of the box, and its first words."""


def page(runs: Sequence[RunRecord], charts: Sequence[Sequence[Chart]]) -> str:
    """The whole report as HTML that needs nothing else.

    Its content security policy lets nothing be loaded, and no script run but the two that are named by their hash.
    """
    title = ", ".join(run.name for run in runs)
    plotly = plotly_js()
    draw = (HERE / "draw.js").read_text(encoding="utf-8")
    scripts = f"{_hash(plotly)} {_hash(draw)}"
    policy = f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data: blob:"
    figures = [chart.figure.to_plotly_json() for row in charts for chart in row]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Cohort report: {_text(title)}</title>
<style>
{(HERE / "page.css").read_text(encoding="utf-8")}</style>
</head>
<body>
<main>
<h1><small>Cohort report</small>{_text(title)}</h1>
<section class="verdicts">
{_joined(_verdict(run, named=len(runs) > 1) for run in runs)}
</section>
{_differences(runs)}
{_charts(charts)}
{_joined(_prompts(run, named=len(runs) > 1) for run in runs)}
<footer>Names are those of metrics.jsonl, groups.jsonl and summary.json in the run's folder; docs/metrics.md of Cohort
explains each, with healthy ranges and what to do.</footer>
</main>
<script>{plotly}</script>
<script type="application/json" id="figures">{_json(figures)}</script>
<script>{draw}</script>
</body>
</html>
"""


def _verdict(run: RunRecord, named: bool) -> str:
    ending = run.ending
    state, word, sentence = _state(run)
    parts = [
        f'<p class="name">{_text(run.name)}</p>' if named else "",
        f'<p class="state">{_text(word)}</p>',
        f'<p class="sentence">{_text(sentence)}</p>',
    ]
    if ending and ending.advice:
        parts.append(f'<p class="advice"><b>What to do:</b> {_text(ending.advice)}</p>')
    facts = _facts(ending) if ending else _facts_so_far(run)
    parts.append(
        f'<dl class="facts">{"".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)}</dl>'
    )
    alarms = ending.alarms if ending else ()
    parts += [f'<p class="note"><b>Alarm:</b> {_text(alarm)}</p>' for alarm in alarms]
    if ending and ending.restarts:
        lines = "".join(f"<br>{_text(one)}" for one in ending.restarts)
        parts.append(f'<p class="note"><b>Restarts:</b> {len(ending.restarts)}{lines}</p>')
    parts += [f'<p class="note"><b>Note:</b> {_text(note)}</p>' for note in run.notes]
    if run.config:
        parts.append(f'<p class="setting">{_text(_settings_line(run.config))}</p>')
    return f'<div class="verdict {state}">\n{_joined(parts)}\n</div>'


def _state(run: RunRecord) -> tuple[str, str, str]:
    """Class, word and sentence of how it ended."""
    if run.ending is None:
        last = f"after step {run.metric('step')[-1]:.0f}" if run.steps else "before its first step"
        return (
            "unfinished",
            "Unfinished",
            f"There is no summary.json: {last} the run is still going on, or it was killed.",
        )
    state, word = STATES[run.ending.target]
    if run.ending.cause:
        return "missed", f"Could not learn: {run.ending.cause.replace('_', ' ')}", run.ending.verdict
    return state, word, run.ending.verdict


def _facts(ending: Ending) -> Iterator[tuple[str, str]]:
    before, after = ending.before, ending.after
    yield "sampled reward", f"{_signed(before.reward_sampled, '.3f')} → {_signed(after.reward_sampled, '.3f')}"
    yield "greedy accuracy", f"{before.accuracy_greedy:.0%} → {after.accuracy_greedy:.0%}"
    yield "prompts solved", f"{before.prompts_solved} → {after.prompts_solved} of {after.prompts}"
    yield "steps", f"{ending.steps}"
    yield "time", _duration(ending.seconds)


def _facts_so_far(run: RunRecord) -> Iterator[tuple[str, str]]:
    if run.steps:
        rewards = run.metric("reward_mean")
        yield "mean reward, first → latest step", f"{_signed(rewards[0], '.3f')} → {_signed(rewards[-1], '.3f')}"
        yield "prompts solved", f"{run.metric('prompts_solved')[-1]:.0f}"
        yield "steps", f"{run.metric('step')[-1]:.0f}"
        yield "time", _duration(run.metric("seconds_total")[-1])


def _settings_line(config: Config) -> str:
    sampling, training = config.sampling, config.training
    return "  ·  ".join(
        (
            config.task.name or Path(config.task.dataset or "").name,
            Path(config.model.path).name,
            f"{sampling.prompts_per_step} prompts × {sampling.num_generations} completions a step",
            f"temperature {sampling.temperature:g}",
            training.loss_type,
            f"learning rate {training.learning_rate:g}",
        )
    )


def _differences(runs: Sequence[RunRecord]) -> str:
    """The settings that are not the same in all runs; nothing for a single run."""
    configs = [_flat(run.config) if run.config else {} for run in runs]
    names = [
        name
        for name in dict.fromkeys(name for config in configs for name in config)
        if name not in ("run.name", "run.directory") and len({config.get(name, "?") for config in configs}) > 1
    ]
    if not names:
        return ""
    head = "".join(f"<th>{_text(run.name)}</th>" for run in runs)
    rows = _joined(
        f"<tr><th>{name}</th>" + "".join(f"<td>{_text(config.get(name, '?'))}</td>" for config in configs) + "</tr>"
        for name in names
    )
    return f"""<section><h2>Settings that differ</h2>
<table class="settings"><thead><tr><th></th>{head}</tr></thead><tbody>
{rows}
</tbody></table></section>"""


def _flat(config: Config) -> dict[str, str]:
    values = config.model_dump(mode="json")
    sections: dict[str, Mapping[str, object]] = {
        name: value if isinstance(value, dict) else {"": value} for name, value in values.items()
    }
    return {
        f"{section}.{name}".rstrip("."): json.dumps(value, ensure_ascii=False)
        for section, within in sections.items()
        for name, value in within.items()
    }


def _charts(rows: Sequence[Sequence[Chart]]) -> str:
    if not rows:
        return ""
    names = count()  # of the plots, in the order of the figures
    boxes = _joined(
        f'<div class="charts">\n{_joined(_chart(chart, next(names)) for chart in row)}\n</div>' for row in rows
    )
    return f"<section><h2>Step by step</h2>\n{boxes}\n</section>"


def _chart(chart: Chart, number: int) -> str:
    return f"""<div class="chart"><h3>{_text(chart.title)}</h3>
<p>{_text(chart.note)}</p><div class="plot" id="chart-{number}"></div></div>"""


def _prompts(run: RunRecord, named: bool) -> str:
    if not run.rollouts:
        return ""
    chosen = sorted(run.rollouts, key=lambda prompt_id: run.rollouts[prompt_id][-1].reward)[:PROMPTS]
    hidden = len(run.rollouts) - len(chosen)
    caption = f"<caption>{hidden} more, with higher rewards, in groups.jsonl.</caption>" if hidden else ""
    legend = "".join(f'<li><i class="{kind}"></i>{kind}</li>' for kind in HEIGHTS)
    last_step = max(rollout.step for rollouts in run.rollouts.values() for rollout in rollouts)
    rows = _joined(
        f"""<tr><th>{_text(run.questions.get(prompt_id, prompt_id), QUESTION)}</th>
<td class="time">{_strip(run.rollouts[prompt_id], last_step)}</td>
<td class="rollout">{_rollout(run.rollouts[prompt_id][0], run)}</td>
<td class="rollout">{_rollout(run.rollouts[prompt_id][-1], run)}</td></tr>"""
        for prompt_id in chosen
    )
    of = f": {_text(run.name)}" if named else ""
    return f"""<section><h2>Prompt by prompt{of}</h2>
<ul class="kinds">{legend}</ul>
<table class="prompts">{caption}
<thead><tr><th>prompt</th><th>kind over time</th><th>first rollout</th><th>last rollout</th></tr></thead>
<tbody>
{rows}
</tbody></table></section>"""


def _strip(rollouts: Sequence[Rollout], last_step: int) -> str:
    """The kinds of a prompt's groups over the steps of the run; neighbours of one kind are one bar."""
    tallest = max(HEIGHTS.values())
    bars = []
    for kind, same in groupby(zip(rollouts, [*rollouts[1:], None], strict=True), key=lambda pair: pair[0].kind):
        pairs = list(same)
        (first, _), (last, following) = pairs[0], pairs[-1]
        end = following.step if following else last_step + 1
        steps = f"step {first.step}" if first is last else f"steps {first.step} to {last.step}"
        bars.append(
            f'<rect class="{kind}" x="{first.step - 1}" y="{tallest - HEIGHTS[kind]}" width="{end - first.step}" '
            f'height="{HEIGHTS[kind]}"><title>{steps}: {kind}</title></rect>'
        )
    kinds = ", ".join(dict.fromkeys(rollout.kind for rollout in rollouts))
    times = "1 rollout" if len(rollouts) == 1 else f"{len(rollouts)} rollouts"
    return (
        f'<svg class="strip" viewBox="0 0 {last_step} {tallest}" preserveAspectRatio="none" role="img" '
        f'aria-label="{kinds}">{"".join(bars)}</svg><span class="small">{times}</span>'
    )


def _rollout(rollout: Rollout, run: RunRecord) -> str:
    kept = rollout.completions[:COMPLETIONS]
    whole = max(1, rollout.samples, sum(one.count for one in rollout.completions))
    items = "".join(
        f'<li class="{"correct" if one.outcome == "correct" else "other"}">'
        f'<span class="what"><i class="share" style="width:{one.count / whole:.1%}"></i>'
        f'<span class="count">{one.count}×</span>'
        f'<span class="text">{_text(one.text, COMPLETION) or "<i>empty</i>"}</span></span>'
        f'<span class="reward" title="{_text(one.outcome)}">{_signed(one.reward, ".3g")}</span></li>'
        for one in kept
    )
    more = rollout.distinct - len(kept)
    rest = f'<span class="small">and {more} other text{"s" * (more > 1)}</span>' if more > 0 else ""
    hot = f", temperature {rollout.temperature:.3g}" if rollout.temperature != run.base_temperature else ""
    reward = _signed(rollout.reward, ".3f")
    return (
        f'<span class="small">step {rollout.step}: {rollout.kind}, reward {reward}{hot}</span><ol>{items}</ol>{rest}'
    )


def _signed(number: float, form: str) -> str:
    return f"{number:{form}}".replace("-", "−")


def _text(text: str, most: int | None = None) -> str:
    """`text` as HTML, also within quotes: line breaks as ↵, other characters that do not print as �."""
    if most is not None and len(text) > most:
        text = text[:most] + "…"
    return html.escape(printable(text))


def _json(value: object) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _joined(parts: Iterator[str] | Sequence[str]) -> str:
    return "\n".join(part for part in parts if part)


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
