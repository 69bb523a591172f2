"""`cohort report`."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from configs.errors import ConfigError
from configs.printable import printable
from launch.report.read import read_run

HELP = """\
usage: cohort report RUN... [--output FILE]

Writes one HTML file about one or several runs, which needs no network: the verdict, charts of what every step did,
and every prompt with how its completions changed. Of several runs the curves are overlaid. RUN is a run's folder,
for example runs/comparison; the run may still be going on.

options:
  --output FILE   the file; for one run its folder's report.html unless given, for several ./report.html"""


def report(arguments: Sequence[str]) -> int:
    """Writes the report as asked; the exit status. Raises ConfigError."""
    if not arguments or {"-h", "--help"} & {*arguments}:
        print(HELP)
        return 0 if arguments else 2
    folders, output = parse_report(arguments)
    runs = [read_run(folder, name) for folder, name in zip(folders, names(folders), strict=True)]

    from launch.report.charts import charts
    from launch.report.page import page

    with_steps = [run for run in runs if run.steps]
    text = page(runs, charts(with_steps) if with_steps else [])
    try:
        output.write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise ConfigError(
            f"--output: {output} cannot be written: {error}. It must be a file in a folder that you may write to. "
            "Choose another."
        ) from None
    print(printable(str(output)))
    return 0


def parse_report(words: Sequence[str]) -> tuple[list[Path], Path]:
    """The runs' folders, and the file to write. Raises ConfigError."""
    folders: list[Path] = []
    output: Path | None = None
    rest = iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        if option == "--output":
            value = value if equals else next(rest, "")
            if not value or value.startswith("--"):
                raise ConfigError("--output needs a value, for example --output report.html")
            output = Path(value)
        elif word.startswith("-"):
            raise ConfigError(f"{word}: there is no such option. There is only --output FILE; all else names runs.")
        else:
            folders.append(Path(word))
    if not folders:
        raise ConfigError("Name a run's folder: cohort report runs/comparison")
    for folder, times in Counter(map(_resolved, folders)).items():
        if times > 1:
            raise ConfigError(f"{folder} is named {times} times; each run may be named once. Leave out the others.")
    return folders, output or (folders[0] / "report.html" if len(folders) == 1 else Path("report.html"))


def _resolved(folder: Path) -> Path:
    """A path that no folder can have stays as it is; reading it tells what is wrong."""
    try:
        return folder.resolve()
    except (OSError, ValueError, RuntimeError):
        return folder


def names(folders: Sequence[Path]) -> list[str]:
    """What to call the runs: their folders' names, with as many folders above as it takes to tell them apart."""
    paths = [_resolved(folder).parts for folder in folders]
    length = 1
    while len({path[-length:] for path in paths}) < len(paths):
        length += 1
    return [str(Path(*path[-length:])) for path in paths]
