"""Whatever a user writes is taken, or refused with a message: settings, configuration files, arguments and data.

COHORT_FUZZ is how many times as many examples are tried.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configs import loading, schema
from configs.errors import ConfigError
from rewards import dataset
from rewards.errors import TaskError
from rewards.prompts import Message
from trainer.update.model import encoder, load_tokenizer

Encode = Callable[[Sequence[Message]], Sequence[int]]

RECIPE = Path(__file__).parents[1] / "configs" / "comparison.yaml"
NAMES = sorted(schema.settings())
TIMES = int(os.environ.get("COHORT_FUZZ", "1"))


def fuzz(examples: int) -> settings:
    return settings(
        max_examples=examples * TIMES,
        derandomize=TIMES == 1,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


def works_or_is_refused(work: Callable[[], object]) -> None:
    """Any other exception fails the test, and so does an empty message, or one of settings that moves a cursor."""
    try:
        work()
    except TaskError as error:
        lines = [ascii(error)]
    except ConfigError as error:
        lines = str(error).split("\n")
    else:
        return
    for line in lines:
        assert line.strip(), lines
        assert line.isprintable(), lines


LONG_TEXTS = ["9" * 400, "9" * 5000, "a" * 300, "/tmp/" + "b" * 300, "x/" * 3000]
PLAIN_WORDS = [
    "null",
    "true",
    "010",
    "1:30",
    "2024-13-45",
    "1e999",
    "nan",
    "-1",
    "~",
    ".",
    "..",
    "[",
    "[]",
    "[a,b]",
    "{",
    "=",
]
ODD_TEXTS = st.one_of(
    st.text(max_size=8),
    st.text(alphabet=st.characters(codec=None), max_size=4),  # lone surrogates too
    st.sampled_from(["", " ", "\n", "\0", "a\0b", "\x1b[2J", "\ud800", *LONG_TEXTS, *PLAIN_WORDS]),
)
ODD_VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from([10**30, -(10**400), 2**63, 2**64]),
        st.floats(),
        ODD_TEXTS,
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(ODD_TEXTS, inner, max_size=4)),
    max_leaves=6,
)


@st.composite
def settings_of_a_run(draw: st.DrawFn) -> dict[str, Any]:
    """Nested as a file has them; most names exist."""
    given: dict[str, Any] = {}
    for name in draw(st.lists(st.sampled_from(NAMES), max_size=4)):
        section, _, key = name.rpartition(".")
        place = given.setdefault(section, {}) if section else given
        if isinstance(place, dict):
            place[key] = draw(ODD_VALUES)
    if draw(st.integers(0, 9)) == 0:
        given[draw(ODD_TEXTS)] = draw(ODD_VALUES)
    return given


@fuzz(500)
@given(settings_of_a_run())
def test_settings(given: dict[str, Any]) -> None:
    works_or_is_refused(lambda: loading.load(RECIPE, given))


def mutated(original: str, pieces: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """A text of which some parts are cut out, given again elsewhere, or replaced by one of `pieces`."""

    @st.composite
    def text(draw: st.DrawFn) -> str:
        changed = original
        for _ in range(draw(st.integers(1, 4))):
            start = draw(st.integers(0, len(changed)))
            end = min(len(changed), start + draw(st.sampled_from([0, 0, 1, 2, 5, 20])))
            changed = changed[:start] + draw(pieces) + changed[end:]
        return changed

    return text()


MARKS = [*"\t\n:-?[]{}&*!|>'\"%@`,#=<", "\n  ", ": ", "- ", "? ", "&a", "*a", "<<: ", "---\n", "...\n"]
TAGS = [
    "!!int ",
    "!!binary ",
    "!!python/name:os.system ",
    "%YAML 1.1\n",
    '"\\ud800"',
    '"\\0"',
    "\x85",
    "\u2028",
    "\ufeff",
]
DEEP = ["[" * 3000, "{a: " * 500, "- " * 800]
YAML_PIECES = st.one_of(ODD_TEXTS, st.sampled_from([*MARKS, *TAGS, *DEEP]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    import datasets

    made = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", made / "cache")
        datasets.disable_progress_bars()
        yield made


@fuzz(400)
@given(st.one_of(mutated(RECIPE.read_text(), YAML_PIECES), st.lists(YAML_PIECES, max_size=12).map("".join)))
def test_configuration_files(folder: Path, text: str) -> None:
    path = folder / "recipe.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    works_or_is_refused(lambda: loading.load(path))


ARGUMENTS = st.one_of(
    st.builds("--{}={}".format, st.sampled_from(NAMES), ODD_TEXTS),
    st.sampled_from(NAMES).map("--{}".format),
    ODD_TEXTS,
    st.sampled_from(
        ["--", "-", "--=", "--help=", "---", "--run", "--run.", "--.name", "-x", "--seed.x", "@file", "--run.name="]
    ),
)


@fuzz(300)
@given(st.lists(ARGUMENTS, max_size=5))
def test_command_lines(arguments: list[str]) -> None:
    works_or_is_refused(lambda: loading.parse(RECIPE, arguments))


JSON_PIECES = st.one_of(
    ODD_TEXTS,
    st.sampled_from(
        [*'{}[]":,\n\t\0', '"prompt"', '"role": 1', '"\\ud800"', "null", "NaN", "1e999", "\n\n", "\ufeff"]
    ),
    st.sampled_from(["[" * 2000, "9" * 5000, '{"a":' * 150, "\r\n", '{"prompt": "a"}\n']),
)
PROMPTS = st.one_of(
    ODD_VALUES,
    st.lists(
        st.fixed_dictionaries(
            {"role": st.one_of(st.sampled_from(["system", "user", "assistant"]), ODD_TEXTS), "content": ODD_TEXTS}
        ),
        max_size=3,
    ),
)
ROWS = st.dictionaries(st.sampled_from(["prompt", "prompt", "id", "answer", "completions", "x"]), PROMPTS, max_size=4)
LINES = "".join(json.dumps({"prompt": prompt, "answer": 3}) + "\n" for prompt in ("1 + 2?", "3 + 4?", "5 + 6?"))


@pytest.fixture(scope="module")
def encode(model: str) -> Encode:
    return encoder(load_tokenizer(model))


def read_and_encoded(path: Path, encode: Encode) -> None:
    """As a task does it, and as groups.jsonl and reward workers need it."""
    for row in dataset.read(str(path), "train"):
        messages = [{"role": "user", "content": row.prompt}] if isinstance(row.prompt, str) else row.prompt
        assert all(isinstance(token, int) for token in encode(messages))
        json.dumps([row.id, row.prompt, row.columns], default=str, ensure_ascii=False).encode()


@fuzz(700)
@given(
    st.one_of(
        mutated(LINES, JSON_PIECES), st.lists(ROWS, max_size=4).map(lambda rows: "\n".join(map(json.dumps, rows)))
    )
)
def test_lines_of_json(folder: Path, encode: Encode, text: str) -> None:
    path = folder / "data.jsonl"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    works_or_is_refused(lambda: read_and_encoded(path, encode))


@fuzz(50)
@given(
    st.one_of(
        mutated(f"[{LINES.strip().replace(chr(10), ',')}]", JSON_PIECES), st.lists(ROWS, max_size=4).map(json.dumps)
    )
)
def test_files_of_json(folder: Path, encode: Encode, text: str) -> None:
    path = folder / "data.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    works_or_is_refused(lambda: read_and_encoded(path, encode))


@fuzz(50)
@given(
    mutated(
        "prompt,answer\n1 + 2?,3\n3 + 4?,7\n",
        st.one_of(ODD_TEXTS, st.sampled_from([*',"\n\r;\t', '"""', "prompt", ",,,"])),
    )
)
def test_tables(folder: Path, encode: Encode, text: str) -> None:
    path = folder / "data.csv"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    works_or_is_refused(lambda: read_and_encoded(path, encode))
