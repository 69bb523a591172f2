"""What `cohort check` shows."""

from collections import Counter
from collections.abc import Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from configs.schema import Config
from launch.check.advice import Recommendation, chances
from launch.check.findings import Finding, chosen
from launch.check.forecast import RANGE, Forecast
from launch.check.look import Look, distinct_share, share
from launch.logger.display import COLORS, one_line, shown
from launch.memory_plan import MemoryPlan
from trainer.scored import ScoredGroup

WIDTH = 100
"""Columns at most."""

SHOWN = 3
"""Completions of each prompt."""

QUESTION, TEXT = 22, 60
"""Characters of a question and of a completion at most."""


def show(
    console: Console,
    config: Config,
    look: Look,
    recommendation: Recommendation,
    forecast: Forecast,
    findings: Sequence[Finding],
) -> None:
    """Prints everything; the verdict last."""
    width = min(WIDTH, console.width)
    own = config.task.dataset and not config.signal.without_best
    parts: tuple[RenderableType, ...] = (
        _prompts(look),
        _completions(look),
        _chances(look),
        *([_temperatures(config, look)] if look.others else []),
        Text.assemble(
            ("Recommended: ", "bold"),
            f"sampling.num_generations {recommendation.num_generations}, "
            f"sampling.temperature {recommendation.temperature:g}. {recommendation.reason}",
        ),
        Text(),
        _memory(forecast.plan),
        _memory_sum(forecast),
        _seconds(forecast),
        Text(
            f"Estimates of an early step, {RANGE[0]:g} to {RANGE[1]:g} times that. Sampling: what it took here, "
            "scaled to sampling.prompts_per_step and num_generations. Update: the tokens of the trees seen, by what "
            "a few of the model's layers took for them here. Weight sync: copies of all weights. Steps get shorter "
            "as completions become alike.",
            "dim",
        ),
        Text(),
        *([Text(chosen(look, config).sentences), Text()] if own else []),
        *_verdict(look, findings),
    )
    for part in parts:
        console.print(shown(part) if isinstance(part, Text) else part, width=width)


def verdict(look: Look, findings: Sequence[Finding]) -> str:
    """The last line."""
    if findings and findings[0].fatal:
        return f"This run could not learn ({findings[0].cause}). {findings[0].sentence} {findings[0].advice}"
    if not look.unsolved:
        return (
            f"Already solved: all samples of all {len(look.groups)} prompts that were asked are right, so there is "
            "little to learn."
        )
    learning = sum(kind == "learning" for kind in look.kinds)
    return f"This run could learn: {learning} of {len(look.groups)} groups have signal."


def _verdict(look: Look, findings: Sequence[Finding]) -> list[Text]:
    warnings = [
        Text.assemble(("Warning: ", "bold yellow"), f"{finding.sentence} {finding.advice}")
        for finding in findings
        if not finding.fatal
    ]
    fatal = bool(findings) and findings[0].fatal
    return [*warnings, Text(verdict(look, findings), "bold red" if fatal else "bold green")]


def _prompts(look: Look) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    table.add_column("question")
    table.add_column("kind")
    for name in ("distinct", "reward", "right", "wrong", "malf.", "cut off"):
        table.add_column(name, justify="right")
    for index, (group, kind) in enumerate(zip(look.groups, look.kinds, strict=True), 1):
        table.add_row(
            str(index),
            _cut(group.group.prompt.messages[-1]["content"], QUESTION),
            Text(kind, COLORS[kind]),
            f"{distinct_share([group]):.1%}",
            f"{group.reward_mean:.2f} ± {group.reward_std:.2f}",
            *_shares([group]),
        )
    return table


def _completions(look: Look) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", "samples", "reward"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict")
    table.add_column("most frequent completions", no_wrap=True)
    for index, group in enumerate(look.groups, 1):
        samples: Counter[tuple[str, float, str]] = Counter()
        for completion, said in zip(group.group.completions, group.verdicts, strict=True):
            samples[completion.text, said.reward, said.outcome] += completion.count
        for place, ((text, reward, outcome), count) in enumerate(samples.most_common(SHOWN)):
            name = "" if place else str(index)
            table.add_row(name, f"{count:,}", f"{reward:g}", outcome, _cut(repr(text), TEXT))
    return table


def _chances(look: Look) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="Chances, by what was seen", title_justify="left")
    for name in ("generations", "signal", "prompts with signal below 50 %", "a right answer"):
        table.add_column(name, justify="right")
    for chance in chances(look.groups):
        table.add_row(
            str(chance.num_generations),
            f"{chance.signal:.0%}",
            f"{chance.rare} of {len(look.groups)}",
            f"{chance.right:.0%}",
        )
    return table


def _temperatures(config: Config, look: Look) -> Table:
    """The same prompts at every temperature."""
    compared = max(len(groups) for groups in look.others.values())
    rows = {config.sampling.temperature: look.groups[:compared], **look.others}
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title=f"Prompts 1 to {compared} at other temperatures" if compared > 1 else "Prompt 1 at other temperatures",
        title_justify="left",
    )
    for name in ("temperature", "distinct", "reward", "right", "wrong", "malf.", "cut off"):
        table.add_column(name, justify="right")
    for temperature, groups in sorted(rows.items()):
        reward = sum(group.reward_mean for group in groups) / len(groups)
        table.add_row(f"{temperature:g}", f"{distinct_share(groups):.1%}", f"{reward:.2f}", *_shares(groups))
    return table


def _memory(plan: MemoryPlan) -> Table:
    """What each process will hold, part by part."""
    kinds = [(plan.engines, "engine", plan.engine, plan.engine_room), (plan.ranks, "rank", plan.rank, plan.rank_room)]
    title = "Memory of each process, GiB"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    table.add_column("")
    for _, name, _, _ in kinds:
        table.add_column(name, justify="right")
    table.add_row("processes", *(str(number) for number, _, _, _ in kinds))
    for part in dict.fromkeys((*plan.engine, *plan.rank)):
        table.add_row(part, *(_gib(parts[part]) if part in parts else "" for _, _, parts, _ in kinds))
    table.add_row("all", *(_gib(sum(parts.values())) for _, _, parts, _ in kinds), style="bold")
    if plan.hardware.gpu_bytes:
        table.add_row("room on its GPU", *(_gib(room) for _, _, _, room in kinds))
    if plan.host:
        table.add_row("in the machine's memory", "", _gib(sum(plan.host.values())))
    return table


def _memory_sum(forecast: Forecast) -> Text:
    plan, free = forecast.plan, forecast.available
    place = "" if free is None else f"; {_gib(free)} GiB are free here"
    if gpu_bytes := plan.hardware.gpu_bytes:
        shared = "an engine and a rank on one" if plan.shared else "one for each process"
        place = f", on GPUs of {_gib(gpu_bytes)} GiB, {shared}"
    cache = f"An engine has keys and values of {plan.cached_tokens:,} tokens at a time."
    return Text.assemble(("Memory: ", "bold"), f"about {_gib(plan.total)} GiB{place}. {cache}")


def _seconds(forecast: Forecast) -> Text:
    low, high = (forecast.seconds_per_step * times for times in RANGE)
    phases = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in forecast.seconds.items())
    if forecast.overlap:
        phases += ", of which sampling and update go on at once"
    return Text.assemble(
        ("Time: ", "bold"),
        f"about {forecast.seconds_per_step:.1f} s a step, {low:.1f} to {high:.1f} ({phases}; "
        f"{forecast.tree_tokens:,.0f} tree tokens).",
    )


def _shares(groups: Sequence[ScoredGroup]) -> list[str]:
    return [f"{share(groups, outcome):.0%}" for outcome in ("correct", "wrong", "malformed", "truncated")]


def _cut(text: str, length: int) -> Text:
    line = one_line(text)
    line.truncate(length, overflow="ellipsis")
    return line


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f}"
