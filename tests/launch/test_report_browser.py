"""The report in a browser: drawn, silent, self-contained, and deaf to what completions say."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from launch.logger.run_folder import RunFolder
from launch.report.charts import charts
from launch.report.command import report
from launch.report.read import read_run
from tests.launch import chromium, samples

pytestmark = [
    pytest.mark.skipif(not chromium.INSTALLED, reason="needs Chromium: apt-get install chromium"),
    pytest.mark.timeout(300),
]

HOSTILE = (
    "<script>window.pwned = 1</script>",
    '"><img src=x onerror="window.pwned = 1">',
    "</td></tr></table></script><b onmouseover='window.pwned = 1'>&lt;b&gt;",
    "a\nb\x1b[2J\u202e\ud800${window.pwned = 1}",
)

SHOWN = (*HOSTILE[:3], "a↵b�[2J��${window.pwned = 1}")


def hostile(directory: Path) -> Path:
    """A run whose completions, questions, verdict, alarm and name are out to break the page."""
    config = samples.config(run={"directory": str(directory)})
    folder = RunFolder.create(config)
    scored = samples.groups()[0].scored
    first = scored.group.completions[0]
    for step in (1, 2, 3):
        for number, text in enumerate(HOSTILE):
            group = replace(
                scored.group,
                prompt=replace(scored.group.prompt, id=f"{number} {text}"),
                completions=(replace(first, text=text, count=scored.group.num_generations),),
            )
            alone = replace(scored, group=group, verdicts=scored.verdicts[:1])
            folder.step(
                samples.metrics(len(HOSTILE) * (step - 1) + number + 1), [samples.treated(alone, "collapsed")]
            )
    result = samples.result()
    questions = tuple(
        replace(prompt, prompt_id=f"{number} {text}", question=text)
        for number, (prompt, text) in enumerate(zip(result.after.prompts, HOSTILE, strict=True))
    )
    evaluated = replace(result.after, prompts=questions)
    alarms = tuple(replace(result.alarms[0], text=text) for text in HOSTILE)
    folder.summary(replace(result, before=evaluated, after=evaluated, alarms=alarms, stopped=HOSTILE[1]), config)
    return folder.path.rename(directory / "<img src=x onerror='window.pwned = 1'>")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A run that is hostile, and one that goes on."""
    directory = tmp_path_factory.mktemp("runs")
    folder = RunFolder.create(samples.config(run={"directory": str(directory), "name": "going-on"}))
    for step in range(1, 6):
        folder.step(samples.metrics(step), samples.groups())
    return [hostile(directory), folder.path]


@pytest.fixture(scope="module")
def html(runs: list[Path]) -> Path:
    path = runs[0].parent / "report.html"
    assert report([*map(str, runs), "--output", str(path)]) == 0
    return path


@pytest.fixture(scope="module", params=[(1280, False), (390, True)], ids=["desk", "phone"])
def page(
    request: pytest.FixtureRequest, html: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[chromium.Page]:
    width, touch = request.param
    with chromium.opened(html, tmp_path_factory.mktemp("profile"), width, touch) as opened:
        yield opened


def test_every_chart_is_drawn(page: chromium.Page, runs: list[Path]) -> None:
    expected = [chart for row in charts([read_run(path, path.name) for path in runs]) for chart in row]
    panels = page.run("[...document.querySelectorAll('.plot')].map(plot => plot.querySelectorAll('.subplot').length)")
    assert panels == [len(list(chart.figure.select_yaxes())) for chart in expected]
    marks = page.run(
        "[...document.querySelectorAll('.plot')].map(plot => "
        "plot.querySelectorAll('.scatterlayer .trace, .barlayer .trace').length)"
    )
    assert marks == [len(chart.figure.data) for chart in expected]


def test_the_page_is_silent_and_asks_for_nothing(page: chromium.Page, html: Path) -> None:
    assert page.complaints == []
    assert page.requests == [html.resolve().as_uri()]
    buttons = page.run("[...document.querySelectorAll('.modebar-btn')].map(button => button.dataset.title).join()")
    assert "Share" not in buttons  # plotly's offer to upload the chart


def test_the_verdict_is_the_first_that_is_seen(page: chromium.Page) -> None:
    top, text, window = page.run(
        "(() => { const box = document.querySelector('.verdict .sentence');"
        "return [box.getBoundingClientRect().bottom, box.innerText, innerHeight]; })()"
    )
    assert text
    assert 0 < top < window / 2
    assert page.run("document.querySelector('.plot').getBoundingClientRect().top") > top


def test_hostile_text_is_shown_and_does_nothing(page: chromium.Page) -> None:
    assert page.run("window.pwned === undefined")
    assert page.run("document.querySelectorAll('script').length") == 3
    for made in ("img", "[onerror]", "[onmouseover]"):
        assert page.run(f"document.querySelectorAll('{made}').length") == 0
    section = "document.querySelectorAll('table.prompts')[0].tBodies[0]"
    assert page.run(f"[...{section}.querySelectorAll('th')].map(cell => cell.textContent)") == list(SHOWN)
    shown = page.run(f"[...{section}.querySelectorAll('.rollout .text')].map(cell => cell.textContent)")
    assert shown == [text for text in SHOWN for _ in ("first rollout", "last rollout")]
    name = "<img src=x onerror='window.pwned = 1'>"
    assert page.run("document.querySelector('.verdict .name').textContent") == name
    assert page.run("document.querySelector('.legendtext').textContent") == name


def test_nothing_is_wider_than_the_screen(page: chromium.Page) -> None:
    assert page.run("document.documentElement.scrollWidth") <= page.width
    wide = page.run(
        "[...document.querySelectorAll('main *')].filter(one => !one.closest('svg') && "
        f"one.getBoundingClientRect().right > {page.width + 0.5}).map(one => one.className)"
    )
    assert wide == []
