"""How a metric is declared: once, as a field of a frozen dataclass.

The field's name is its name in metrics.jsonl, TensorBoard and Weights & Biases. `metric` adds what it means, which
values are healthy, what to do about others, how it is made, and where the report draws it; docs/metrics.md is written
from that (docs/write_metrics.py).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Literal

Reduction = Literal["sum", "same"]
"""From micro-batches and ranks to the batch: their sum, or the same on all of them."""


@dataclass(frozen=True)
class Panel:
    """Where the report draws a metric. chart: its title, one of `launch.report.charts.NOTES`. title: of the metric's
    part of it. format: d3's, "d" for whole numbers. steps: drawn as a staircase. first: above what was declared
    before."""

    chart: str
    title: str
    format: str = ".3f"
    log: bool = False
    from_zero: bool = True
    steps: bool = False
    first: bool = False


@dataclass(frozen=True)
class Metric:
    """section: of docs/metrics.md. meaning, healthy, otherwise (what to do if it is not healthy): Markdown.

    of: makes it from `trainer.metrics.Measured`. reduction: for what ranks report.
    """

    section: str
    meaning: str
    healthy: str = ""
    otherwise: str = ""
    of: Callable[[Any], float] | None = None
    reduction: Reduction | None = None
    panel: Panel | None = None


def metric(section: str, meaning: str, **how: Any) -> Any:
    """A field of a dataclass of metrics; see `Metric`."""
    return field(metadata={"metric": Metric(section, meaning, **how)})


def declared(record: type) -> Iterator[tuple[str, Metric]]:
    """Every metric of the dataclass, by name, in order."""
    return ((each.name, each.metadata["metric"]) for each in fields(record) if "metric" in each.metadata)
