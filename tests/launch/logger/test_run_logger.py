"""A tracker that fails costs a warning."""

import io
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rich.console import Console

from launch.logger import run_logger
from launch.logger.display import Display
from launch.logger.run_folder import RunFolder
from launch.logger.run_logger import RunLogger
from tests.end_to_end.runs import rows
from tests.launch import samples


@dataclass
class FakeTracker:
    """Fails from step `fails` on; its close fails, or does not come back."""

    name: str = "Fake"
    fails: int = 99
    close_fails: bool = False
    hangs: bool = False
    logged: list[int] = field(default_factory=list)
    closed: int = 0

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if step >= self.fails:
            raise OSError(28, "No space left on device")
        self.logged.append(step)

    def close(self) -> None:
        self.closed += 1
        if self.hangs:
            threading.Event().wait()
        if self.close_fails:
            raise RuntimeError("no network")


def logger(tmp_path: Path, *trackers: FakeTracker) -> tuple[RunLogger, RunFolder, io.StringIO]:
    config = samples.config(run={"directory": str(tmp_path)})
    folder, out = RunFolder.create(config), io.StringIO()
    return RunLogger(Display(config, Console(file=out, width=200)), folder, trackers), folder, out


def test_a_tracker_that_fails_is_told_once_and_the_others_go_on(tmp_path: Path) -> None:
    failing, other = FakeTracker(name="Failing", fails=2), FakeTracker()
    written, folder, out = logger(tmp_path, failing, other)
    for step in range(1, 5):
        written.step(samples.metrics(step), ())
    written.close()
    assert (failing.logged, other.logged) == ([1], [1, 2, 3, 4])
    assert out.getvalue().count("Warning: tracking: Failing failed ([Errno 28] No space left on device)") == 1
    assert [row["step"] for row in rows(folder.path / "metrics.jsonl")] == [1, 2, 3, 4]
    assert (failing.closed, other.closed) == (0, 1)


def test_closing_raises_nothing_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_logger, "UPLOAD_SECONDS", 0.1)
    monkeypatch.setattr(run_logger, "TRACKER_SECONDS", 0.1)
    failing, hanging = FakeTracker(name="Failing", close_fails=True), FakeTracker(name="Hanging", hangs=True)
    written, _, out = logger(tmp_path, failing, hanging)
    began = time.monotonic()
    written.close()
    written.close()
    assert time.monotonic() - began < 5
    assert (failing.closed, hanging.closed) == (1, 1)
    assert "tracking: Failing failed (no network)" in out.getvalue()
    assert "tracking: Hanging failed (not done within 0.2 seconds)" in out.getvalue()
