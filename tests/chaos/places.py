"""Where the files of a campaign are."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Places:
    """folder: of one long run, disturbed or not."""

    folder: Path

    @property
    def disk(self) -> Path:
        """A file system of its own, where one may be mounted: it can be full."""
        return self.folder / "disk"

    @property
    def filler(self) -> Path:
        return self.disk / "filler"

    @property
    def run(self) -> Path:
        return self.disk / "runs" / "chaos"

    @property
    def fault(self) -> Path:
        return self.folder / "fault.json"

    @property
    def fired(self) -> Path:
        return self.folder / "fired.jsonl"

    @property
    def reward(self) -> Path:
        return self.folder / "reward.py"

    def beside_reward(self, name: str) -> Path:
        return self.reward.with_name(name)

    def rows(self) -> int:
        """Steps in metrics.jsonl."""
        return len(self.metrics())

    def metrics(self) -> list[Row]:
        """All that must be the same again: without seconds."""
        kept = _rows(self.run / "metrics.jsonl")
        return [{name: value for name, value in row.items() if not name.startswith("seconds")} for row in kept]

    def groups(self) -> list[Row]:
        return _rows(self.run / "groups.jsonl")


def _rows(path: Path) -> list[Row]:
    """Of the lines that are complete."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
