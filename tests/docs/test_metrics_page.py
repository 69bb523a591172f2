"""docs/metrics.md says what is declared, and has every name that a run writes."""

import json
import re
import runpy
from pathlib import Path
from typing import get_args

import pytest

from launch.logger.run_folder import RunFolder
from tests.launch import samples
from trainer.diagnosis.sentences import Cause
from trainer.metric import declared
from trainer.metrics import StepMetrics

DOCS = Path(__file__).parents[2] / "docs"

PAGE = DOCS / "metrics.md"

FILES = ("groups.jsonl", "evaluations.jsonl", "summary.json")
"""Titles of sections of their own; all others are of metrics.jsonl."""


def documented() -> dict[str, list[str]]:
    """File -> the names that the first columns of its tables explain."""
    found: dict[str, list[str]] = {"metrics.jsonl": [], **{file: [] for file in FILES}}
    for section in re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        title, *lines = section.splitlines()
        cells = [line.split("|")[1] for line in lines if line.startswith("|")]
        found[title if title in FILES else "metrics.jsonl"] += re.findall(r"`(\w+)`", "".join(cells))
    return found


def test_the_tables_are_what_the_metrics_declare() -> None:
    written, page = runpy.run_path(str(DOCS / "write_metrics.py"))["written"], PAGE.read_text(encoding="utf-8")
    assert page == written(page), "docs/metrics.md is out of date: run `.venv/bin/python docs/write_metrics.py`"
    with pytest.raises(ValueError, match=r"has tables for the sections .*, and the metrics declare .*'Time'"):
        written(page.replace("<!-- metrics: Time -->", ""))


def test_every_metric_is_explained_once() -> None:
    assert sorted(documented()["metrics.jsonl"]) == sorted(name for name, _ in declared(StepMetrics))


@pytest.mark.parametrize("file", FILES)
def test_every_field_is_explained(tmp_path: Path, file: str) -> None:
    config = samples.config(run={"directory": str(tmp_path)})
    folder = RunFolder.create(config)
    folder.step(samples.metrics(), samples.groups()[:1])
    folder.evaluation("eval", samples.evaluation(solved=True))
    folder.summary(samples.result(), config)
    assert sorted(documented()[file]) == sorted(json.loads((folder.path / file).read_text()))


def test_every_cause_is_named() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [cause for cause in get_args(Cause) if f"`{cause}`" not in text] == []
