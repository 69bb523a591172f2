"""`cohort report` on folders that a run wrote, and what its charts hold."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from math import nan
from pathlib import Path

import pytest

from launch.__main__ import BAD_INPUT, OK, main
from launch.logger.run_folder import RunFolder
from launch.report.charts import NOTES, Chart, charts, distinct_share, prompts_above_base
from launch.report.command import names
from launch.report.read import Rollout, RunRecord, read_run
from tests.launch import samples
from tests.launch.samples import written
from trainer.metric import declared
from trainer.metrics import StepMetrics

TITLES = ["Reward", "Kinds of groups", "Distinct completions", "Seconds by phase", "Temperature ladder"]
TITLES += ["Completions", "Gradient", "Policy"]


def recorded(path: Path) -> RunRecord:
    return read_run(path, path.name)


def drawn(*runs: RunRecord) -> list[Chart]:
    return [chart for row in charts(runs) for chart in row]


def texts(path: Path) -> list[str]:
    """What a reader sees, in order."""

    class Reader(HTMLParser):
        hidden = False
        seen: list[str]

        def handle_starttag(self, tag: str, attrs: object) -> None:
            self.hidden = tag in ("script", "style", "title")

        def handle_endtag(self, tag: str) -> None:
            self.hidden = False

        def handle_data(self, data: str) -> None:
            if not self.hidden and data.strip():
                self.seen.append(data.strip())

    reader = Reader()
    reader.seen = []
    reader.feed(path.read_text(encoding="utf-8"))
    return reader.seen


def test_one_run_is_reported_in_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path)
    assert main(["report", str(path)]) == OK
    assert capsys.readouterr().out == f"{path / 'report.html'}\n"
    seen = texts(path / "report.html")
    assert seen[:4] == ["Cohort report", "sample", "Target reached", recorded(path).ending.verdict]  # type: ignore[union-attr]
    assert seen[4:14] == [
        *("sampled reward", "0.062 → 1.000"),
        *("greedy accuracy", "50% → 100%"),
        *("prompts solved", "0 → 4 of 4"),
        *("steps", "10"),
        *("time", "1 min 52 s"),
    ]
    assert seen[14:16] == ["Alarm:", "logprob_gap is 0.3."]
    assert [title for title in seen if title in TITLES] == TITLES
    assert "step 1: learning, reward 0.625" in seen
    assert "96×" in seen


def test_a_cause_and_advice_are_said_first(tmp_path: Path) -> None:
    path = written(tmp_path)
    summary = json.loads((path / "summary.json").read_text())
    verdict = {"reached": False, "verdict": "No <signal>.", "cause": "temperature_trap", "advice": "Raise it."}
    (path / "summary.json").write_text(json.dumps(summary | verdict))
    assert main(["report", str(path)]) == OK
    seen = texts(path / "report.html")
    assert seen[2:6] == ["Could not learn: temperature trap", "No <signal>.", "What to do:", "Raise it."]


def test_a_run_that_goes_on_is_unfinished(tmp_path: Path) -> None:
    path = written(tmp_path, finished=False)
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, ')
    assert main(["report", str(path)]) == OK
    seen = texts(path / "report.html")
    assert seen[2] == "Unfinished"
    assert seen[3] == "There is no summary.json: after step 3 the run is still going on, or it was killed."
    assert "metrics.jsonl, line 4: the line is not finished and was left out." in seen


def test_numbers_that_the_run_could_not_write_are_survived(tmp_path: Path) -> None:
    path = written(tmp_path, steps=1)
    for file in ("metrics.jsonl", "summary.json"):
        numbers = json.loads((path / file).read_text())
        without = {name: None if type(value) is float else value for name, value in numbers.items()}
        (path / file).write_text(json.dumps(without) + "\n")
    assert main(["report", str(path)]) == OK
    seen = texts(path / "report.html")
    assert seen[seen.index("time") + 1] == "unknown"


def test_a_run_without_a_step_has_a_verdict_and_no_charts(tmp_path: Path) -> None:
    path = written(tmp_path, steps=0)
    assert main(["report", str(path)]) == OK
    seen = texts(path / "report.html")
    assert seen[2] == "Target reached"
    assert not set(seen) & set(TITLES)


def test_several_runs_are_one_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = written(tmp_path, "one"), written(tmp_path, "two", steps=5, finished=False)
    (two / "config.yaml").write_text(
        (two / "config.yaml").read_text().replace("temperature: 1.0", "temperature: 0.5")
    )
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(one), str(two)]) == OK
    seen = texts(tmp_path / "report.html")
    assert seen[1:4] == ["one, two", "one", "Target reached"]
    assert seen.index("Unfinished") < seen.index("Step by step")
    at = seen.index("sampling.temperature")
    assert seen[at + 1 : at + 3] == ["1.0", "0.5"]
    for title in ("Kinds of groups: one", "Kinds of groups: two", "Seconds by phase: one", "Seconds by phase: two"):
        assert title in seen
    assert "Prompt by prompt: two" in seen


def test_the_page_names_no_address(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert main(["report", str(path), "--output", str(tmp_path / "page.html")]) == OK
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    without_scripts = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert "//" not in without_scripts
    assert not re.search(r"\b(src|href|@import|url)\b *[=(]", without_scripts)
    assert "default-src 'none'" in without_scripts


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere does not exist; it must be the folder of a run"),
        (["--output", "x.html"], "Name a run's folder: cohort report runs/comparison"),
        (["RUN", "--output"], "--output needs a value, for example --output report.html"),
        (["RUN", "--outptu=x"], "--outptu=x: there is no such option. There is only --output FILE"),
        (["RUN", "RUN/../sample"], "is named 2 times; each run may be named once"),
        (["RUN", "--output=nowhere/x.html"], "--output: nowhere/x.html cannot be written"),
    ],
)
def test_bad_input_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    run = str(written(tmp_path))
    assert main(["report", *(word.replace("RUN", run) for word in words)]) == BAD_INPUT
    assert message in capsys.readouterr().err


def test_a_broken_line_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path)
    (path / "metrics.jsonl").write_text("{]\n")
    assert main(["report", str(path)]) == BAD_INPUT
    assert f"cohort report: {path}/metrics.jsonl, line 1: this is not JSON" in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--help"]) == OK
    assert "usage: cohort report RUN... [--output FILE]" in capsys.readouterr().out


def test_runs_are_called_by_what_tells_them_apart() -> None:
    assert names([Path("/a/x/run"), Path("/a/y/other")]) == ["run", "other"]
    assert names([Path("/a/x/run"), Path("/a/y/run")]) == ["x/run", "y/run"]
    assert names([Path("/a/run"), Path("/b/a/run")]) == ["/a/run", "b/a/run"]


def test_every_curve_of_every_chart_has_values(tmp_path: Path) -> None:
    made = drawn(*(recorded(written(tmp_path, name, steps=4)) for name in ("one", "two")))
    assert len(made) == len(TITLES) + 2  # kinds and phases have a chart for each run
    for chart in made:
        for trace in chart.figure.data:
            assert list(trace.x) == [1, 2, 3, 4], chart.title
            assert all(value is not None for value in trace.y), (chart.title, trace.name)
    reward = made[0].figure.data
    assert [trace.name for trace in reward] == ["one", "two"] * 2
    assert reward[0].y == pytest.approx([-0.08, 0.04, 0.16, 0.28])


def test_a_metric_is_drawn_in_the_chart_that_it_declares(tmp_path: Path) -> None:
    made = {chart.title: chart.figure for chart in drawn(recorded(written(tmp_path)))}
    for name, metric in declared(StepMetrics):
        if metric.panel:
            assert metric.panel.chart in NOTES, f"{name}: no chart is called {metric.panel.chart!r}"
            assert metric.panel.title in [note.text for note in made[metric.panel.chart].layout.annotations]
    assert [note.text for note in made["Gradient"].layout.annotations] == [
        *("gradient norm", "clipped above 1"),
        *("clip fraction of the probability ratios", "learning rate"),
    ]


def test_kinds_and_phases_are_stacked(tmp_path: Path) -> None:
    run = recorded(written(tmp_path))
    kinds, times = (chart.figure.data for chart in drawn(run) if chart.title.startswith(("Kinds", "Seconds")))
    assert {trace.name: trace.y[0] for trace in kinds} == {"learning": 5, "solved": 2, "collapsed": 1, "floor": 0}
    assert {trace.name: trace.y[0] for trace in times} == {
        "sample": 4.21,
        "score": 0.04,
        "update": 6.35,
        "publish": 0.52,
    }
    assert distinct_share(run) == pytest.approx([87 / 1024] * 3)


def test_a_step_without_an_update_is_a_gap(tmp_path: Path) -> None:
    folder = RunFolder.create(samples.config(run={"directory": str(tmp_path)}))
    for step, fields in enumerate(({}, {"tree_tokens": 0, "grad_norm": 0.0}, {"grad_norm": nan}, {}), 1):
        folder.step(samples.metrics(step, **fields), samples.groups())
    (chart,) = [chart for chart in drawn(recorded(folder.path)) if chart.title.startswith("Gradient")]
    assert list(chart.figure.data[0].y) == [1.5, None, None, 1.5]


def test_the_ladder_counts_prompts_above_the_base_temperature(tmp_path: Path) -> None:
    run = recorded(written(tmp_path))

    def rollout(step: int, temperature: float) -> Rollout:
        return replace(run.rollouts["comparison-7-3"][0], step=step, temperature=temperature)

    hot = replace(run, rollouts={"a": (rollout(1, 1.0), rollout(2, 1.4)), "b": (rollout(2, 1.96), rollout(3, 1.0))})
    assert prompts_above_base(hot).tolist() == [0, 2, 0]


def test_evaluations_of_held_out_prompts_have_a_chart_from_before_training_on(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert not [chart for chart in drawn(recorded(path)) if chart.title == "Held-out prompts"]
    folder = RunFolder(path)
    for solved in (False, True):
        folder.evaluation("train", samples.evaluation(solved=True))
        folder.evaluation("eval", samples.evaluation(solved))
    (chart,) = [chart for chart in drawn(recorded(path)) if chart.title == "Held-out prompts"]
    reward, accuracy, chance = chart.figure.data
    assert list(reward.x) == list(accuracy.x) == [0, 10] and list(reward.y) == [0.0625, 1.0]
    assert list(accuracy.y) == [0.5, 1.0] and list(chance.y) == [1.0, 1.0]
    assert "pass@2" in [note.text for note in chart.figure.layout.annotations]
