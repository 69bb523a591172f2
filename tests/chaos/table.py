"""What came of the faults, as tables in Markdown."""

from collections.abc import Callable, Sequence
from statistics import median

from tests.chaos.campaign import Outcome


def tables(outcomes: Sequence[Outcome]) -> str:
    """By kind of fault, and by phase."""
    return "\n\n".join(
        (
            _table("fault", outcomes, lambda outcome: outcome.fault.kind.name),
            _table("phase", outcomes, lambda outcome: outcome.fault.phase),
        )
    )


def _table(title: str, outcomes: Sequence[Outcome], name: Callable[[Outcome], str]) -> str:
    lines = [
        f"| {title} | tried | right | seconds until found | seconds until the step was complete |",
        "|---|---|---|---|---|",
    ]
    rows: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        rows.setdefault(name(outcome), []).append(outcome)
    return "\n".join([*lines, *(_row(row, rows[row]) for row in sorted(rows)), _row("all", outcomes)])


def _row(name: str, outcomes: Sequence[Outcome]) -> str:
    right = sum(not outcome.problem for outcome in outcomes)
    found = _seconds([outcome.found for outcome in outcomes])
    complete = _seconds([outcome.complete for outcome in outcomes])
    return f"| {name} | {len(outcomes)} | {right} | {found} | {complete} |"


def _seconds(values: Sequence[float | None]) -> str:
    """Median and most."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    return f"{median(known):.1f}, at most {max(known):.1f}"
