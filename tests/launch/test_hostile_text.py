"""Text of models, data sets, reward functions and exceptions reaches no terminal and no page as anything but text."""

import io
import os
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from configs.errors import ConfigError
from launch import __main__ as command_line
from launch.check import command as check
from launch.errors import RemoteError
from launch.evaluate import _table
from launch.logger.display import Display
from rewards.errors import RewardError, TaskError
from tests.launch import samples
from trainer.evaluation import Evaluation, PromptResult
from trainer.signal.right_and_wrong import EXAMPLE_REWARDS_SEEN

HOSTILE = "a\x1b]0;owned\x9c\x1b[2J\u202eb\x9b3J<script>alert(1)</script>[red]c[/red]"
SHOWN = "a�]0;owned��[2J�b�3J<script>alert(1)</script>[red]c[/red]"


@pytest.mark.parametrize(
    ("error", "status"),
    [(ConfigError, 2), (TaskError, 2), (RewardError, 1), (RemoteError, 1), (RuntimeError, 1), (ZeroDivisionError, 1)],
)
def test_an_error_s_text_is_printed_as_text(
    error: type[Exception], status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: Sequence[str]) -> int:
        raise error(HOSTILE)

    monkeypatch.setitem(command_line.COMMANDS, "train", fail)
    assert command_line.main(["train"]) == status
    out, err = capsys.readouterr()
    assert out == "" and SHOWN in err and err.replace("\n", "").isprintable()
    assert ("Traceback" in err) == (error in (RuntimeError, ZeroDivisionError))


def test_what_is_typed_is_printed_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([HOSTILE], ["train", HOSTILE], ["check", "x.yaml", f"--{HOSTILE}"], ["report", HOSTILE]):
        assert command_line.main(words) == 2
        assert capsys.readouterr().err.replace("\n", "").isprintable()


@pytest.mark.parametrize("live", [False, True])
def test_the_display_shows_text(live: bool) -> None:
    file = io.StringIO()
    console = Console(file=file, width=120, force_terminal=live, force_interactive=live, color_system=None)
    with Display(samples.config(), console) as display:
        display.phase(HOSTILE)
        display.alarm(HOSTILE)
        display.step(samples.metrics(1))
    written = file.getvalue()
    assert written.count(SHOWN) >= 2
    for sequence in ("\x1b[2J", "\x1b]0;", "\x9c", "\x9b", "\u202e"):
        assert sequence not in written


def test_an_evaluation_shows_text() -> None:
    one = PromptResult("p", f"What?\n{HOSTILE}", HOSTILE, 1.0, 1.0, True)
    console = Console(file=io.StringIO(), width=400, record=True, color_system=None)
    console.print(_table(Evaluation(0, 0, (one,), 1.0, 1.0, {1: 1.0}, EXAMPLE_REWARDS_SEEN)))
    text = console.export_text()
    assert f"What? {SHOWN}" in text and text.replace("\n", "").isprintable()


def test_an_update_that_takes_too_long_to_time_ends_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    config = samples.config(cluster={"update_timeout": 0.2})
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(check, "lone_engine_spec", lambda prepared: None)
    monkeypatch.setattr(check, "Engine", lambda spec: None)
    monkeypatch.setattr(check, "probe", lambda *given: time.sleep(20))
    prepared: Any = SimpleNamespace(config=config, model="tiny", revision=None)
    forest: Any = None
    with (
        check._site(prepared, lambda phase: None) as site,
        pytest.raises(RemoteError, match=r"Timing an update.*0\.2 s"),
    ):
        site.cost(forest)


def test_what_a_failing_start_printed_is_shown_as_text(capfd: pytest.CaptureFixture[str]) -> None:
    def start() -> None:
        with check._quiet_start():
            os.write(1, HOSTILE.encode())  # as libraries in C do
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        start()
    assert capfd.readouterr().err == SHOWN
