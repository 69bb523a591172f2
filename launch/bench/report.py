"""A sweep's results: as tables, and as JSON with every raw figure."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from launch.bench.measure import OURS, PLAIN, TRL, Measurement, Spread, commit, machine, spread, versions
from launch.bench.sweep import Sweep

NOTES = (
    "Seconds, samples_per_second and tokens_per_second are of whole measurements; tokens are completion tokens, "
    "duplicates counted; distinct_tokens are nodes of the completions' prefix trees.",
    "details.random_rewards: groups with one reward only, which a run would not train on; they were given random "
    "rewards with a seed (a group with one completion only, each half of its samples another). What an update costs "
    "does not depend on the rewards.",
    "peak_mib: largest resident set during a measurement; of a step, summed over engines and ranks.",
)


WORK = ("sample", "update", "forward", "backward", "optimizer")
"""Phases that are sampling or part of an update; all others are what it takes besides."""


@dataclass(frozen=True)
class Cell:
    """All measurements of one way at one policy and group size. phases: median seconds."""

    way: str
    policy: str
    num_generations: int
    repeats: int
    seconds: Spread
    samples_per_second: Spread
    tokens_per_second: Spread
    samples: float
    tokens: float
    distinct_completions: float
    distinct_tokens: float
    peak_mib: Spread
    phases: dict[str, float]


def cells(measurements: Sequence[Measurement]) -> list[Cell]:
    """By policy, group size and way, in the order of first appearance."""
    together: dict[tuple[str, int, str], list[Measurement]] = {}
    for one in sorted(measurements, key=lambda one: (OURS, PLAIN, TRL).index(one.way)):
        together.setdefault((one.policy, one.num_generations, one.way), []).append(one)
    order = list(dict.fromkeys((one.policy, one.num_generations) for one in measurements))
    keys = sorted(together, key=lambda key: order.index(key[:2]))
    return [_cell(together[key]) for key in keys]


def ratio(cell: Cell, all_cells: Sequence[Cell]) -> float | None:
    """How many times the median seconds of our way at the same policy and group size; None without that."""
    ours = [c for c in all_cells if (c.way, c.policy, c.num_generations) == (OURS, cell.policy, cell.num_generations)]
    return cell.seconds.median / ours[0].seconds.median if ours else None


def tables(sweep: Sweep, measurements: Sequence[Measurement]) -> Iterator[Table]:
    """The main table; and where there are several phases, their medians."""
    found = cells(measurements)
    main = _table(
        f"cohort bench {sweep.bench}: {sweep.prompts} prompt{'s' * (sweep.prompts > 1)}, median (min-max)",
        *("policy", "group", "way", "runs", "seconds", "÷ ours", "samples/s", "tokens/s"),
        *("distinct\ncompletions", "distinct\ntokens", "peak\nMiB"),
    )
    for cell in found:
        times = ratio(cell, found)
        main.add_row(
            cell.policy,
            str(cell.num_generations),
            cell.way,
            str(cell.repeats),
            _shown(cell.seconds),
            f"{times:.1f}×" if times is not None and cell.way != OURS else "",
            _number(cell.samples_per_second.median),
            _number(cell.tokens_per_second.median),
            f"{cell.distinct_completions:g} of {cell.samples:g}",
            f"{cell.distinct_tokens:g} of {cell.tokens:g}",
            _number(cell.peak_mib.median),
            end_section=cell is found[-1] or found[found.index(cell) + 1].way == OURS,
        )
    yield main
    names = list(dict.fromkeys(name for cell in found for name in cell.phases))
    if len(names) < 2:
        return
    phases = _table("median seconds of each phase", "policy", "group", "way", *names, "besides sampling\nand update")
    for cell in found:
        if cell.phases:
            share = 1 - sum(cell.phases.get(name, 0.0) for name in WORK) / sum(cell.phases.values())
            seconds = [_number(cell.phases[name]) for name in names]
            phases.add_row(cell.policy, str(cell.num_generations), cell.way, *seconds, f"{share:.1%}")
    yield phases


def path(sweep: Sweep) -> Path:
    """Of the JSON file."""
    return sweep.output / f"bench-{sweep.bench}.json"


def save(sweep: Sweep, measurements: Sequence[Measurement]) -> None:
    """Writes the JSON file."""
    path(sweep).write_text(json.dumps(content(sweep, measurements), indent=1), encoding="utf-8")


def content(sweep: Sweep, measurements: Sequence[Measurement]) -> dict[str, Any]:
    """What is in the JSON file."""
    found = cells(measurements)
    options = {"num_generations": sweep.sizes, "prompts": sweep.prompts, "repeats": sweep.repeats}
    return {
        "bench": sweep.bench,
        "options": options | {"policies": sweep.policies, "peer": "trl" if sweep.peer else None},
        **_surroundings(),
        "config": sweep.config.model_dump(mode="json"),
        "notes": NOTES,
        "medians": [asdict(cell) | {"seconds_over_ours": ratio(cell, found)} for cell in found],
        "measurements": [asdict(measurement) for measurement in measurements],
    }


@cache
def _surroundings() -> dict[str, Any]:
    return {"machine": machine(), "versions": versions(), "commit": commit()}


def _cell(same: Sequence[Measurement]) -> Cell:
    def median(name: str) -> float:
        return spread(getattr(one, name) for one in same).median

    first = same[0]
    return Cell(
        way=first.way,
        policy=first.policy,
        num_generations=first.num_generations,
        repeats=len(same),
        seconds=spread(one.seconds for one in same),
        samples_per_second=spread(one.samples / one.seconds for one in same),
        tokens_per_second=spread(one.tokens / one.seconds for one in same),
        samples=median("samples"),
        tokens=median("tokens"),
        distinct_completions=median("distinct_completions"),
        distinct_tokens=median("distinct_tokens"),
        peak_mib=spread(one.peak_mib for one in same),
        phases={name: spread(one.phases[name] for one in same).median for name in first.phases},
    )


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, justify="left" if column in ("policy", "way") else "right", no_wrap=True)
    return table


def _shown(values: Spread) -> str:
    """`1.25 (1.20-1.31)`"""
    alone = values.low == values.high
    return _number(values.median) + ("" if alone else f" ({_number(values.low)}-{_number(values.high)})")


def _number(value: float) -> str:
    """Three digits, or all of a whole part that is longer."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
