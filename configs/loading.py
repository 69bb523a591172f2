"""From a YAML file and the command line to a Config, and back to YAML."""

import json
import re
import textwrap
from collections.abc import Hashable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsError

from configs.errors import ConfigError
from configs.schema import Config, allowed, settings

Values = Mapping[str, Any]
"""Settings as nested mappings: `{"training": {"learning_rate": 2e-5}}`."""


def load(path: str | Path, overrides: Values | None = None) -> Config:
    """Read a recipe; `overrides` win over the file. Raises ConfigError.

    A run without a name is named after the file.
    """
    path = Path(path)
    values = _merge(_read(path), overrides or {})
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(*_explain(error)) from None
    if config.run.name is not None:
        return config
    name = re.sub(r"[^A-Za-z0-9._-]", "-", path.stem).lstrip("._-") or "run"
    return config.model_copy(update={"run": config.run.model_copy(update={"name": name})})


def parse(path: str | Path, arguments: Sequence[str]) -> Config:
    """Read a recipe and the `--section.key value` arguments that follow it. Raises ConfigError."""
    for argument in arguments:
        name = argument.removeprefix("--").partition("=")[0]
        if argument.startswith("--") and name not in settings() and name != "help":
            raise ConfigError(_unknown(name))
    try:
        return load(path, _command_line(arguments)())
    except SettingsError as error:
        raise ConfigError(
            f"{str(error).removeprefix('error parsing CLI: ')}. Settings are given as --section.key value, "
            "for example --training.learning_rate 2e-5 (--section.key=value for a value that begins with a "
            "dash)."
        ) from None


def help_text(command: str) -> str:
    """What `cohort train --help` prints: every setting with its type, meaning and default.

    command: what precedes the settings, for example `cohort train CONFIG`.
    """
    parser: Any = _command_line(()).root_parser
    parser.usage = f"{command} [--section.key value ...]"
    parser.description = "CONFIG is a YAML file; every setting in it can be overridden here. null unsets a setting."
    return str(parser.format_help())


def dump(config: Config) -> str:
    """The resolved configuration as YAML; `load` of it gives an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)


class _CommandLine(BaseSettings, Config):  # type: ignore[misc]  # both define model_config
    """Shows pydantic-settings the schema. Only its command-line source is used: no environment variables."""


def _command_line(arguments: Sequence[str]) -> CliSettingsSource[_CommandLine]:
    return CliSettingsSource(
        _CommandLine,
        cli_prog_name="cohort",
        cli_parse_args=list(arguments),
        cli_parse_none_str="null",
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_use_class_docs_for_groups=True,
        cli_exit_on_error=False,
    )


class _Loader(yaml.SafeLoader):
    """YAML 1.2's reading of plain words: `off` is text and 2e-5 a number. A key given twice is refused."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # as the base class declares it
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":float"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise ConfigError(
                    f"{key.start_mark.name}, line {line}: {key.value} is given twice, first on line "
                    f"{seen[key.value]}. Keep one of the two."
                )
            seen[key.value] = line
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?((\d+\.\d*|\.\d+)([eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.inf|\.nan)$"),
    list("-+.0123456789"),
)


def _read(path: Path) -> dict[str, Any]:
    if path.is_dir():
        raise ConfigError(
            f"{path} is a folder, not a configuration file. Name a YAML file, for example {path}/run.yaml."
        )
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(_missing(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}. Name a YAML file that you may read.") from None
    loader = _Loader(text)
    loader.name = str(path)
    try:
        values = loader.get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = getattr(error, "problem", None) or str(error)
        raise ConfigError(
            f"{path}{where}: this is not YAML: {what}. Check the indentation, colons and quotes there."
        ) from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(
            f"{path}: it must hold sections with settings below them, such as `run:` and, indented, "
            f"`max_seconds: 900`; it holds {_shown(values)}."
        )
    return {key: value for key, value in values.items() if value is not None}


def _missing(path: Path) -> str:
    here = sorted(str(file) for file in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
    nearest = get_close_matches(str(path), here, n=1)
    hint = f"Did you mean {nearest[0]}?" if nearest else f"Files there: {', '.join(here[:10]) or 'none'}."
    return f"{path}: there is no such configuration file. {hint}"


def _merge(base: Values, over: Values) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def _explain(error: ValidationError) -> Iterator[str]:
    """One message for each problem: the setting, its value, what is allowed, what to do."""
    fields = settings()
    for problem in error.errors(include_url=False):
        name, value = ".".join(map(str, problem["loc"][:2])), problem["input"]
        if not name:
            yield str(problem["ctx"]["error"])
        elif problem["type"] == "extra_forbidden":
            yield _unknown(name)
        elif name in fields:
            field = fields[name]
            default = f"Choose such a value, or leave it out for {_shown(field.default)}."
            extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
            yield (
                f"{name}: {_shown(value)} is not allowed; it must be {allowed(field)}. {extra.get('remedy', default)}"
            )
        else:
            keys = [key for key in fields if key.startswith(f"{name}.")]
            yield (
                f"{name}: {_shown(value)} is not allowed; it must be a section with settings below it. "
                f"Indent them under `{name}:`, for example {keys[0]}."
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
        return f"{name}: there is no such setting. Did you mean {guess[0]}?"
    legal = ", ".join(here) if section and here else f"seed and the sections {', '.join(sections)}"
    return f"{name}: there is no such setting. There are {legal}."


def _shown(value: object) -> str:
    plain = isinstance(value, str) and value.strip()
    text = str(value) if plain else json.dumps(value, default=str, ensure_ascii=False)
    return textwrap.shorten(text, 80, placeholder="...")
