"""`cohort bench learn`: what it is asked, what it reads of a run, and what it writes."""

import json
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pytest
from rich.console import Console

from configs.errors import ConfigError
from launch.bench import learn
from launch.bench.learn import Curve, bench, table
from launch.bench.measure import OURS, TRL
from tests.launch import samples

OURS_TWICE = (
    Curve(OURS, 128, 0, (10.0, 12.0, 14.0), (0.1, 0.6, 1.0)),
    Curve(OURS, 128, 1, (10.0, 13.0, 20.0), (0.1, 0.5, 0.9)),
)
TRL_TWICE = (
    Curve(TRL, 8, 0, (30.0, 60.0), (0.1, 0.3)),
    Curve(TRL, 8, 1, (30.0, 60.0, 90.0), (0.1, 0.2, 0.6)),
)


def test_lines_of_a_run_come_with_the_seconds_at_which_they_were_written(tmp_path: Path) -> None:
    target = tmp_path / "lines"
    code = (
        "import sys, time\n"
        "for line in 'ab':\n"
        "    time.sleep(1)\n"
        "    print(line, file=open(sys.argv[1], 'a'))\n"
        "time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(target)])
    (first, a), (second, b) = learn._watched(process, target, 4.0)
    assert (a, b) == ("a", "b")
    assert 0.9 < first < second - 0.5 < 4.5
    assert process.poll() is not None, "it is ended when the time is over"


def test_a_table_says_when_the_best_of_trl_was_reached() -> None:
    console = Console(width=150, record=True)
    console.print(table([*OURS_TWICE, *TRL_TWICE]))
    text = console.export_text()
    assert "seconds to 0.300, TRL's best" in text  # the mean of its last steps
    ours, trl = (line.split() for line in text.splitlines() if line.strip().startswith((OURS, TRL)))
    assert ours == ["ours", "128", "2", "3", "0.533", "(0.500-0.567)", "12"]
    assert trl == ["trl", "8", "2", "2.5", "0.250", "(0.200-0.300)", "75"]


def test_never_reached() -> None:
    console = Console(width=150, record=True)
    console.print(table([Curve(OURS, 4, 0, (1.0,), (0.0,)), Curve(OURS, 4, 1, (1.0,), (0.5,)), *TRL_TWICE]))
    assert "1, 1 never" in console.export_text()


def test_json_and_picture(tmp_path: Path) -> None:
    config = samples.config()
    learn.save(tmp_path, config, 180, [*OURS_TWICE, *TRL_TWICE])
    written = json.loads((tmp_path / "bench-learn.json").read_text())
    assert [curve["seed"] for curve in written["curves"]] == [0, 1, 0, 1]
    assert {"machine", "versions", "commit", "config", "seconds"} < written.keys()
    learn.draw(config, [*OURS_TWICE, *TRL_TWICE]).savefig(tmp_path / "bench-learn.png", dpi=60)
    assert matplotlib.image.imread(tmp_path / "bench-learn.png").std() > 0.01


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--peer", "verl"], "must be trl"),
        (["--seconds", "soon"], "--seconds: 'soon'"),
        (["--seeds", "0,-1"], "--seeds: '-1'"),
        (["--second", "3"], "Did you mean --seconds"),
    ],
)
def test_bad_input(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        bench(words)


def test_another_seed_has_the_same_questions() -> None:
    seeded = [learn.of_seed(samples.config(seed=5), seed, 60) for seed in (0, 1)]
    assert [(config.task.seed, config.seed) for config in seeded] == [(5, 0), (5, 1)]
