import io
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from configs.schema import Config
from launch.logger.display import ROWS, Display, sparkline
from launch.logger.run_folder import RunFolder
from tests.launch import samples
from trainer.diagnosis.sentences import EXAMPLE_DIAGNOSIS
from trainer.ending import Result, Stop, Target
from trainer.evaluation import Evaluation
from trainer.signal.right_and_wrong import EXAMPLE_REWARDS_SEEN

SHOW_CURSOR = "\x1b[?25h"


def console(live: bool) -> Console:
    return Console(file=io.StringIO(), width=120, force_terminal=live, force_interactive=live, record=True)


def shown(live: bool, act: Callable[[Display], None], config: Config | None = None) -> str:
    recorded = console(live)
    with Display(config or samples.config(), recorded) as display:
        act(display)
    return recorded.export_text()


def final(tmp_path: Path, result: Result) -> str:
    folder = RunFolder.create(samples.config(run={"directory": str(tmp_path)}))
    folder.model_path.mkdir()
    return shown(False, lambda display: display.result(result, folder))


def test_without_a_terminal_a_stage_or_a_step_is_a_line() -> None:
    def act(display: Display) -> None:
        display.phase("starting engines")
        for step in (1, 10):
            display.step(samples.metrics(step))
        display.phase("evaluating")

    first, one, ten, last = shown(False, act).splitlines()
    assert (first, last) == ("starting engines", "evaluating")
    assert one == (
        "step   1  reward -0.080  learning 5  solved 2  collapsed 1  floor 0  distinct   87/1024  "
        "sample  4.2s  score  0.0s  update  6.3s  publish  0.5s  step 11.2s  left 14:49"
    )
    assert len(one) == len(ten)


def test_a_terminal_shows_the_latest_step() -> None:
    recorded = console(live=True)
    display = Display(samples.config(run={"max_steps": 40}), recorded)
    for step in range(1, 11):
        display.step(samples.metrics(step))
    recorded.export_text(clear=True)
    recorded.print(display._picture())
    lines = [line.strip("│ ").rstrip() for line in recorded.export_text().splitlines()]
    assert lines[0].startswith("╭─  sample  ─")
    assert lines[1:6] == [
        "step         10  6 prompts solved",
        "reward       1.000  ▁▂▃▃▄▅▆▆▇█  target 0.995",
        "groups       5 learning  2 solved  1 collapsed  0 floor",
        "completions  87 distinct of 1024",
        "seconds      sample 4.2s  score 0.0s  update 6.3s  publish 0.5s  step 11.2s",
    ]
    assert lines[6].startswith("limit        ━━━")
    assert lines[6].endswith("13:08 or 30 steps left")


def test_finished_stages_stay_above_the_picture() -> None:
    def act(display: Display) -> None:
        display.phase("starting engines")
        display.phase("evaluating")
        display.step(samples.metrics())

    text = shown(True, act)
    assert "✓ starting engines  0 s" in text
    assert "✓ evaluating  0 s" in text


@pytest.mark.parametrize("live", [True, False])
def test_an_alarm_is_a_warning_that_stays(live: bool) -> None:
    def act(display: Display) -> None:
        display.step(samples.metrics(1))
        display.alarm("the gap is wide")
        display.step(samples.metrics(2))

    assert shown(live, act).count("Warning: the gap is wide\n") == 1


def test_interruption_gives_the_terminal_and_the_streams_back() -> None:
    recorded, streams = console(live=True), (sys.stdout, sys.stderr)

    def interrupted() -> None:
        with Display(samples.config(), recorded) as display:
            display.phase("starting engines")
            print("a warning from elsewhere")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (sys.stdout, sys.stderr) == streams
    assert isinstance(recorded.file, io.StringIO)
    assert recorded.file.getvalue().rstrip().endswith(SHOW_CURSOR)
    text = recorded.export_text()
    assert "a warning from elsewhere\n" in text
    assert "✗ starting engines" in text


def test_the_end_is_a_table_of_prompts_and_where_the_files_are(tmp_path: Path) -> None:
    lines = [line.split() for line in final(tmp_path, samples.result()).splitlines()]
    assert ["No.", "Yes", "No", "-0.125", "1.000", "✓"] in [line[-6:] for line in lines]
    text = final(tmp_path, samples.result())
    assert (
        "Target reached after 10 steps in 1:52: 4 of 4 prompts solved, sampled reward 0.062 → 1.000, "
        "greedy accuracy 50% → 100%.\nThe mean sampled reward of all 4 prompts reached 0.995.\n"
    ) in text
    assert f"Files in {tmp_path / 'sample-2'}: config.yaml  model/" in text


@pytest.mark.parametrize(
    ("target", "head"),
    [(Target.REACHED, "Target reached"), (Target.MISSED, "Target not reached"), (Target.NONE, "Done")],
)
def test_the_end_says_whether_the_target_was_reached(tmp_path: Path, target: Target, head: str) -> None:
    assert f"\n{head} after 10 steps" in final(tmp_path, samples.result(target))


def test_the_end_says_why_a_run_was_given_up_and_what_to_change(tmp_path: Path) -> None:
    given_up = replace(samples.result(Target.MISSED), stop=Stop.CANNOT_LEARN, diagnosis=EXAMPLE_DIAGNOSIS)
    lines = final(tmp_path, given_up).splitlines()
    head = next(index for index, line in enumerate(lines) if line.startswith("Stopped after 10 steps"))
    assert lines[head + 2 : head + 4] == [EXAMPLE_DIAGNOSIS.verdict, EXAMPLE_DIAGNOSIS.advice]


def test_the_end_names_prompts_that_were_never_right(tmp_path: Path) -> None:
    ids = tuple(f"p{number}" for number in range(7))
    assert "\nNo step sampled a right answer to 2 of the prompts: p0, p1.\n" in final(
        tmp_path, replace(samples.result(), never_right=ids[:2])
    )
    assert " 7 of the prompts: p0, p1, p2, p3, p4 and others.\n" in final(
        tmp_path, replace(samples.result(), never_right=ids)
    )
    assert "No step" not in final(tmp_path, samples.result())


def test_of_many_prompts_the_unsolved_ones_are_shown(tmp_path: Path) -> None:
    one = samples.result().after.prompts[0]
    prompts = tuple(replace(one, prompt_id=str(n), question=f"Question {n}.", solved=n != 99) for n in range(100))
    many = Evaluation(9, 9, prompts, 1.0, 1.0, {1: 1.0}, EXAMPLE_REWARDS_SEEN)
    text = final(tmp_path, replace(samples.result(), before=many, after=many))
    assert "Question 99. " in text
    assert text.count("Question ") == ROWS
    assert f"{100 - ROWS} more in summary.json" in text


def test_text_of_others_cannot_disturb_the_table(tmp_path: Path) -> None:
    one = replace(
        samples.result().after.prompts[0],
        question="[red]Which?\n\x1b[2J" + "long " * 40,
        greedy="a\nb\x07[/x]",
    )
    odd = Evaluation(9, 9, (one,), 1.0, 1.0, {1: 1.0}, EXAMPLE_REWARDS_SEEN)
    text = final(tmp_path, replace(samples.result(), before=odd, after=odd))
    (line,) = [line for line in text.splitlines() if "Which?" in line]
    assert line.split()[:2] == ["[red]Which?", "�[2Jlong"]
    assert "…" in line
    assert "a b�[/x]" in line
    assert len(line) <= 110


@pytest.mark.parametrize(
    ("values", "curve"),
    [
        ([], ""),
        ([1.0, 1.0], "██"),
        ([-1.0, 1.0], "▁█"),
        ([0.0, 2.0], "▁█"),
        ([0.0, 0.0], "▁▁"),
        ([0.0] * 4 + [1.0] * 4, "▁▁██"),
        ([0.0, 0.0, 0.0, 0.5, 0.0, 1.0], "▁▁▅▅"),
    ],
)
def test_sparkline(values: list[float], curve: str) -> None:
    assert sparkline(values, width=4, best=1.0) == curve


@pytest.mark.parametrize("stream", ["pipe that nobody reads", "full disk"])
def test_a_run_outlives_its_output(stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if stream == "full disk":
        writing = os.open("/dev/full", os.O_WRONLY)
    else:
        reading, writing = os.pipe()
        os.close(reading)
    with os.fdopen(writing, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        with Display(samples.config()) as display:
            display.phase("starting engines")
            display.step(samples.metrics(1))
            display.alarm("nobody sees this")
        output.flush()  # as Python does at its end
