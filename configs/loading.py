"""From a YAML file and the command line to a Config, and back to YAML."""

import json
import re
from argparse import ArgumentParser
from collections.abc import Hashable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsError

from configs.errors import ConfigError
from configs.schema import NAME_LENGTH, Config, allowed, is_list, is_mapping, settings

Values = Mapping[str, Any]
"""Settings as nested mappings: `{"training": {"learning_rate": 2e-5}}`."""

FILE_SIZE = 100_000
"""Bytes of a configuration file at most; YAML's reader takes a second for so many."""

DEPTH = 20
"""Lists and sections in one another; YAML's reader takes a time that grows with the square of the depth."""

DIGITS = 40
"""Of a whole number at most: Python refuses to read or print those of thousands."""


def load(path: str | Path, overrides: Values | None = None) -> Config:
    """Read a recipe; `overrides` win over the file. Raises ConfigError.

    A run without a name is named after the file.
    """
    path = Path(path)
    return validated(merged(read(path), overrides or {}), path.stem)


def validated(values: Values, name: str) -> Config:
    """The configuration with these settings. name: of the run, if they name none. Raises ConfigError."""
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(*_explain(error)) from None
    if config.run.name is not None:
        return config
    name = re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip("._-")[:NAME_LENGTH] or "run"
    return config.model_copy(update={"run": config.run.model_copy(update={"name": name})})


def parse(path: str | Path, arguments: Sequence[str]) -> Config:
    """Read a recipe and the `--section.key value` arguments that follow it. Raises ConfigError."""
    for argument in arguments:
        name = argument.removeprefix("--").partition("=")[0]
        if argument.startswith("--") and name not in settings() and name != "help":
            raise ConfigError(_unknown(name))
    try:
        given = _parser().parse_args(list(arguments))
    except SettingsError as error:
        raise ConfigError(
            f"{_printable(str(error).removeprefix('error parsing CLI: '))}. Settings are given as --section.key "
            "value, for example --training.learning_rate 2e-5 (--section.key=value for a value that begins with a "
            "dash)."
        ) from None
    return load(path, _nested(vars(given)))


def help_text(command: str) -> str:
    """What `cohort train --help` prints: every setting with its type, meaning and default.

    command: what precedes the settings, for example `cohort train CONFIG`.
    """
    parser = _parser()
    parser.usage = f"{command} [--section.key value ...]"
    parser.description = "CONFIG is a YAML file; every setting in it can be overridden here. null unsets a setting."
    return parser.format_help()


def dump(config: Config) -> str:
    """The resolved configuration as YAML; `load` of it gives an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)


class _CommandLine(BaseSettings, Config):  # type: ignore[misc]  # both define model_config
    """Shows pydantic-settings the schema. Only its argument parser is used, and no environment variables."""


def _parser() -> ArgumentParser:
    source: CliSettingsSource[Any] = CliSettingsSource(
        _CommandLine,
        cli_prog_name="cohort",
        cli_parse_args=[],
        cli_parse_none_str="null",
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_use_class_docs_for_groups=True,
        cli_exit_on_error=False,
    )
    parser: ArgumentParser = source.root_parser
    return parser


def _nested(given: Mapping[str, str | list[str]]) -> Values:
    """Arguments by their dotted names as sections of settings.

    Not by pydantic-settings, which takes spaces, line breaks and commas off a text.
    """
    nested: dict[str, Any] = {}
    for name, words in given.items():
        section, _, key = name.rpartition(".")
        place = nested.setdefault(section, {}) if section else nested
        place[key] = _worded([words] if isinstance(words, str) else words, name)
    return nested


def _worded(words: Sequence[str], name: str) -> object:
    """What the words given for a setting say; a list is given as [a, b], or by repeating the argument."""
    if words[-1] == "null":
        return None
    if is_mapping(settings()[name]):
        return _mapping(words[-1])
    if not is_list(settings()[name]):
        return words[-1]
    return [item for word in words for item in (_items(word) if _is_bracketed(word, name) else [word])]


def _mapping(word: str) -> object:
    """What `{name: value}` says; any other word as it is, to be refused.

    >>> _mapping("{prompt: question}"), _mapping("prompt")
    ({'prompt': 'question'}, 'prompt')
    """
    try:
        return _Loader(word).get_single_data()
    except (yaml.YAMLError, ConfigError):
        return word


def _is_bracketed(word: str, name: str) -> bool:
    """Whether a word is a list. A list of numbers may do without the brackets."""
    return (word.startswith("[") and word.endswith("]")) or name == "task.range"


def _items(word: str) -> list[Any]:
    """Those of a list in JSON, or else between its commas.

    >>> _items('["a,", 1]'), _items("[a, b]"), _items("0,9")
    (['a,', 1], ['a', 'b'], ['0', '9'])
    """
    try:
        items = json.loads(word)
    except (ValueError, RecursionError):
        items = None
    if isinstance(items, list):
        return items
    inside = word.strip().removeprefix("[").removesuffix("]")
    return [item.strip() for item in inside.split(",")]


class _Loader(yaml.SafeLoader):
    """YAML 1.2's reading of plain words: `off`, 1:30 and 2024-01-01 are text, 2e-5 and 010 are numbers.

    Refused: a key given twice, or one that is no text; and what can hide a value, or make one without an end: tags,
    anchors and aliases.
    """

    yaml_implicit_resolvers = {}  # noqa: RUF012  # as the base class declares it; filled below

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.tag != "tag:yaml.org,2002:str":
                what = _shown(key.value) if isinstance(key, yaml.ScalarNode) else f"a {key.id}"
                raise ConfigError(
                    f"{key.start_mark.name}, line {line}: {what} is no name of a setting; it must be text. Correct "
                    "it, or leave the line out."
                )
            if key.value in seen:
                raise ConfigError(
                    f"{key.start_mark.name}, line {line}: {_printable(key.value)} is given twice, first on line "
                    f"{seen[key.value]}. Keep one of the two."
                )
            seen[key.value] = line
        return super().construct_mapping(node, deep)

    def construct_whole(self, node: yaml.ScalarNode) -> int:
        """010 is ten, 0o10 eight and 0x10 sixteen."""
        if len(node.value) > DIGITS:
            raise yaml.MarkedYAMLError(
                problem=f"a number of {len(node.value)} digits; {DIGITS} are allowed", problem_mark=node.start_mark
            )
        base = {"0o": 8, "0x": 16}.get(node.value[:2], 10)
        return int(node.value, base)

    def _unused(self) -> None:
        """In place of the scanner's methods for tags (!), anchors (&) and aliases (*)."""
        raise yaml.MarkedYAMLError(
            problem=f"a plain value cannot begin with {self.peek()}, and tags, anchors and aliases have no use here",
            problem_mark=self.get_mark(),
        )

    fetch_tag = fetch_anchor = fetch_alias = _unused

    def fetch_flow_collection_start(self, token: type[yaml.Token]) -> None:
        self._refuse_depth(self.flow_level)
        super().fetch_flow_collection_start(token)

    def add_indent(self, column: int) -> bool:
        self._refuse_depth(len(self.indents))
        return bool(super().add_indent(column))

    def _refuse_depth(self, depth: int) -> None:
        if depth >= DEPTH:
            raise yaml.MarkedYAMLError(
                problem=f"lists or sections {DEPTH} deep, and settings need three levels",
                problem_mark=self.get_mark(),
            )


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?((\d+\.\d*|\.\d+)([eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.inf|\.nan)", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?a:{_pattern})\Z"), [*_first])
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_whole)


def read(path: Path) -> dict[str, Any]:
    """The settings in a YAML file, not checked yet. Raises ConfigError."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(FILE_SIZE + 1)
    except IsADirectoryError:
        raise ConfigError(
            f"{path} is a folder, not a configuration file. Name a YAML file, for example {path}/run.yaml."
        ) from None
    except FileNotFoundError:
        raise ConfigError(_missing(path)) from None
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a name that no file can have
        raise ConfigError(
            f"{_shown(str(path))} cannot be read: {error}. Name a YAML file that you may read."
        ) from None
    if len(text) > FILE_SIZE:
        raise ConfigError(f"{path} is too large: a configuration file may have {FILE_SIZE} characters. Shorten it.")
    try:
        loader = _Loader(text)
        loader.name = str(path)
        values = loader.get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(_not_yaml(path, text, error)) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: it must hold sections with settings below them, such as `run:` and, indented, "
            f"`max_seconds: 900`; it holds {_shown(values)}."
        )
    return {key: value for key, value in values.items() if value is not None}


def _not_yaml(path: Path, text: str, error: yaml.YAMLError) -> str:
    """The place, and what is wrong there."""
    what, where = str(error), ""
    if isinstance(error, yaml.MarkedYAMLError):
        mark, what = error.problem_mark, error.problem or what
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    elif isinstance(error, yaml.reader.ReaderError):
        where = f", line {text.count(chr(10), 0, error.position) + 1}"
        what = f"it cannot hold the character U+{ord(text[error.position]):04X}"
    return f"{path}{where}: this is not YAML: {_printable(what)}. Check the indentation, colons and quotes there."


def _missing(path: Path) -> str:
    here = sorted(str(file) for file in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
    nearest = get_close_matches(str(path), here, n=1)
    hint = f"Did you mean {nearest[0]}?" if nearest else f"Files there: {', '.join(here[:10]) or 'none'}."
    return f"{path}: there is no such configuration file. {hint}"


def merged(base: Values, over: Values) -> dict[str, Any]:
    """Both, where `over` wins."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        result[key] = merged(below, value) if both else value  # type: ignore[arg-type]
    return result


def _explain(error: ValidationError) -> Iterator[str]:
    """One message for each problem: the setting, its value, what is allowed, what to do."""
    fields = settings()
    for problem in error.errors(include_url=False):
        name, value = ".".join(map(str, problem["loc"][:2])), problem["input"]
        if not problem["loc"]:
            yield str(problem["ctx"]["error"]) if "ctx" in problem else _unknown(str(value))  # a key that is no text
        elif problem["type"] == "extra_forbidden":
            yield _unknown(name)
        elif name in fields:
            field = fields[name]
            default = f"Choose such a value, or leave it out for {_shown(field.default)}."
            extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
            rule = problem["ctx"]["error"] if problem["type"] == "value_error" else allowed(field)
            yield f"{name}: {_shown(value)} is not allowed; it must be {rule}. {extra.get('remedy', default)}"
        else:
            section = name.partition(".")[0]
            keys = [key for key in fields if key.startswith(f"{section}.")]
            yield (
                f"{section}: {_shown(value)} is not allowed; it must be a section with settings below it. "
                f"Indent them under `{section}:`, for example {keys[0]}."
            )


def _unknown(name: str) -> str:
    """An unknown setting, and the one probably meant: the same key elsewhere, or the most similar here."""
    section, _, key = name.rpartition(".")
    known = list(settings())
    sections = sorted({other.partition(".")[0] for other in known if "." in other})
    here = [other for other in known if other.rpartition(".")[0] == section]
    keys = {other.rpartition(".")[2]: other for other in [*reversed(known), *here]}
    guess = [keys[key]] if key in keys else get_close_matches(name, here, n=1)
    guess = guess or [keys[near] for near in get_close_matches(key, keys, n=1)] or get_close_matches(name, known, n=1)
    if not section and (near := get_close_matches(name, sections, n=1)):
        guess = [f"the section {near[0]}"]
    if guess:
        return f"{_shown(name)}: there is no such setting. Did you mean {guess[0]}?"
    legal = ", ".join(here) if section and here else f"seed and the sections {', '.join(sections)}"
    return f"{_shown(name)}: there is no such setting. There are {legal}."


def _shown(value: object) -> str:
    """A value in a message: on one line, shortened, without what would move a terminal's cursor."""
    plain = isinstance(value, str) and value == value.strip() != ""
    return _cut(_printable(str(value) if plain else json.dumps(_outline(value), default=str, ensure_ascii=False)))


def _outline(value: object, depth: int = 3) -> object:
    """The first few parts of a value, and of those that are too deep or too long only that they are there."""
    if isinstance(value, Mapping) and depth:
        return {_cut(str(key)): _outline(one, depth - 1) for key, one in [*value.items()][:9]}
    if isinstance(value, list | tuple) and depth:
        return [_outline(one, depth - 1) for one in value[:9]]
    if isinstance(value, int) and abs(value) >= 10**DIGITS:
        return f"a number of more than {DIGITS} digits"
    return value[:80] if isinstance(value, str) else "..." if isinstance(value, Mapping | list | tuple) else value


def _cut(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


def _printable(text: str) -> str:
    return "".join(one if one.isprintable() else f"\\u{ord(one):04x}" for one in text)
