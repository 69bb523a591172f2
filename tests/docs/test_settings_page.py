"""docs/settings.md says what the schema declares."""

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_what_the_schema_declares() -> None:
    written = runpy.run_path(str(DOCS / "write_settings.py"))["written"]
    page = (DOCS / "settings.md").read_text(encoding="utf-8")
    assert page == written(), "docs/settings.md is out of date: run `.venv/bin/python docs/write_settings.py`"
