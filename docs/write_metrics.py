"""Writes the tables of docs/metrics.md that the metrics' declarations hold: `python docs/write_metrics.py`."""

import re
from pathlib import Path

from trainer.metric import Metric, declared
from trainer.metrics import StepMetrics

PAGE = Path(__file__).with_name("metrics.md")

TABLE = re.compile(r"(<!-- metrics: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)
"""A table's place: its first line, the section in it, and its last line."""

HEAD = "| name | what it means | healthy | if it is not |\n|---|---|---|---|\n"


def written(page: str) -> str:
    """The page with its tables as declared. Raises ValueError: it has not just one table for every section."""
    places = sorted(section for _, section, _ in TABLE.findall(page))
    sections = sorted({metric.section for _, metric in declared(StepMetrics)})
    if places != sections:
        raise ValueError(f"The page has tables for the sections {places}, and the metrics declare {sections}.")
    return TABLE.sub(lambda place: f"{place[1]}\n{table(place[2])}\n{place[3]}", page)


def table(section: str) -> str:
    """Of the section's metrics, in the order of their declaration."""
    return HEAD + "".join(row(name, one) for name, one in declared(StepMetrics) if one.section == section)


def row(name: str, metric: Metric) -> str:
    cells = (f"`{name}`", metric.meaning, metric.healthy, metric.otherwise)
    return f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in cells)}|\n"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
