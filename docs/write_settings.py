"""Writes docs/settings.md from the schema: `python docs/write_settings.py`."""

import json
from pathlib import Path

from configs.schema import Config, Section, allowed, settings

PAGE = Path(__file__).with_name("settings.md")

HEAD = """# Settings

Every setting of `cohort train`, as `cohort train --help` lists them. In a YAML file they stand below their section;
on the command line they are `--section.key value`, and `null` unsets one. Written from the schema by
`docs/write_settings.py`.
"""


def written() -> str:
    """The page."""
    parts = [HEAD]
    for name, field in Config.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            parts.append(f"\n## {name}\n\n{kind.__doc__}\n\n{table(f'{name}.')}")
        else:
            parts.append(f"\n{table(name)}")
    return "".join(parts)


def table(prefix: str) -> str:
    """Of the settings whose name begins so."""
    rows = [
        f"| `{name}` | {cell(field.description or '')} | {cell(allowed(field))} | `{json.dumps(field.default)}` |\n"
        for name, field in settings().items()
        if name.startswith(prefix)
    ]
    return "| setting | what it does | it may be | default |\n|---|---|---|---|\n" + "".join(rows)


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(written(), encoding="utf-8")
