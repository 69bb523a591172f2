"""A user's own prompts, read with `datasets`: a file, a folder, or a hub id."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from rewards.errors import TaskError
from rewards.prompts import Message

FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
NAMED = 5
"""Bad rows named in one message."""

DEPTH = 100
"""Lists and objects in one another that a row may have; Python and JSON give up at some hundreds."""


@dataclass(frozen=True)
class Row:
    """One question of a data set.

    id: the row's column `id` where there is one, else the source's name and the row's index.
    prompt: the column `prompt` in the form the data set has it: text, or chat messages.
    columns: all other columns, in the order of the data set.
    """

    id: str
    prompt: str | tuple[Message, ...]
    columns: Mapping[str, Any]


EXAMPLE_ROW = Row(id="capitals-0", prompt="What is the capital of France?", columns={"answer": "Paris"})


def read(
    source: str,
    split: str,
    config: str | None = None,
    revision: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> tuple[Row, ...]:
    """Read a data set.

    source: a .jsonl, .json, .parquet or .csv file (all of it is the split train), a folder written by
        `save_to_disk` or holding data files, or a hub id. `datasets` fetches a hub id's data, unless
        HF_HUB_OFFLINE is set: then it must be in the cache already.
    config, revision: of a data set on the hub. columns: new name -> what the data set calls it.

    A row without a column that another one has gets None there.
    Raises TaskError naming the file and the lines or rows that are wrong.
    """
    try:
        path = Path(source).expanduser()
        is_file = path.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, with a NUL, of an unknown user's home
        raise TaskError(f"task.dataset: {source} is no name of a file: {error}. Correct it.") from None
    if is_file and split != "train":
        raise TaskError(
            f"task.split: {split} is not allowed: {source} is a single file, all of which is the split train. Leave "
            "task.split out, or name the file that holds the other split."
        )
    if is_file and (config or revision):
        name, value = ("config", config) if config else ("revision", revision)
        raise TaskError(
            f"task.{name}: {value} is not allowed: {source} is a single file, which has none. Leave it out."
        )
    if path.suffix == ".jsonl" and is_file:
        records = _lines(path)
    else:
        table = _table(source, path, split, config, revision)
        records = [(f"row {index + 1}", row) for index, row in enumerate(table)]
    if not records:
        raise TaskError(f"task.dataset: {source} is empty. It needs at least one row with a column `prompt`.")
    known = list(dict.fromkeys(key for _, row in records for key in row))
    if columns:
        _refuse_columns(source, columns, known)
        records = [(where, _renamed(row, columns)) for where, row in records]
        known = list(_renamed(dict.fromkeys(known), columns))
    if "prompt" not in known:
        near = get_close_matches("prompt", known, n=1)
        remedy = (
            f"Rename `{near[0]}` to `prompt`, or set"
            if near
            else "Name the column with the questions `prompt`, or set"
        )
        raise TaskError(
            f"task.dataset: {source} has no column `prompt`; its columns are {', '.join(known) or 'none'}. {remedy} "
            f"task.columns: {{prompt: {near[0] if near else 'question'}}}."
        )
    if taken := {"prompts", "completions"}.intersection(known):
        raise TaskError(
            f"task.dataset: {source} has a column `{min(taken)}`, which is what reward functions get from "
            "Cohort. Rename it."
        )
    problems = [f"{where}: {wrong}" for where, row in records if (wrong := _wrong(row.get("prompt")))]
    if problems:
        raise TaskError(
            f"task.dataset: {source}: {_listed(problems)}. A prompt is text, or a list of messages such as "
            '[{"role": "user", "content": "..."}] that ends with the user\'s turn.'
        )
    return tuple(_row(row, known, f"{path.stem}-{index}") for index, (_, row) in enumerate(records))


def write(setting: str, data: Any, folder: Path) -> str:
    """Writes a `datasets.Dataset`, or a list of rows, into a file that `read` reads; its name, which follows from its
    content. setting: that it is for. Raises TaskError: it is something else."""
    from datasets import Dataset
    from pyarrow import parquet

    if isinstance(data, Sequence) and not isinstance(data, str) and all(isinstance(row, Mapping) for row in data):
        data = Dataset.from_list([dict(row) for row in data])
    if not isinstance(data, Dataset):
        raise TaskError(
            f"{setting}: a {type(data).__name__} is not allowed; it must be a datasets.Dataset (one split), a list "
            "of rows, or the name of a data set. Choose a split, as in data['train']."
        )
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / "unfinished.parquet"
    parquet.write_table(data.with_format("arrow")[:], unfinished)
    path = folder / f"data-{hashlib.sha256(unfinished.read_bytes()).hexdigest()[:16]}.parquet"
    unfinished.replace(path)
    return str(path)


def _refuse_columns(source: str, columns: Mapping[str, str], known: list[str]) -> None:
    """Raises TaskError: a column is not there, or its new name is another's."""
    for new, old in columns.items():
        if old not in known:
            near = get_close_matches(old, known, n=1)
            raise TaskError(
                f"task.columns: {source} has no column `{old}`; its columns are {', '.join(known)}. "
                + (f"Did you mean `{near[0]}`?" if near else "Name one of them.")
            )
        if new in known and new not in columns.values():
            raise TaskError(
                f"task.columns: {new}: {old} is not allowed: {source} has a column `{new}` of its own. Choose "
                "another name, or leave the entry out."
            )


def _renamed(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The row with its columns' new names. A column may have several."""
    kept = {name: value for name, value in row.items() if name not in columns.values()}
    return kept | {new: row[old] for new, old in columns.items() if old in row}


def _lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """A .jsonl file, read here so that every broken line has its number; empty lines are passed over."""
    records: list[tuple[str, dict[str, Any]]] = []
    problems = []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                row = _object(line, "utf-8-sig" if number == 1 else "utf-8")
                if isinstance(row, str):
                    problems.append(f"line {number} {row}")
                else:
                    records.append((f"line {number}", row))
    except OSError as error:
        raise TaskError(f"task.dataset: {path} cannot be read: {error}. Name a file that you may read.") from None
    if problems:
        raise TaskError(
            f'task.dataset: {path}: {_listed(problems)}. Every line is one object, as {{"prompt": "..."}}.'
        )
    return records


def _object(line: bytes, encoding: str) -> dict[str, Any] | str:
    """The object that a line holds, or what is wrong with the line."""
    too_deep = f"nests lists or objects too deep; {DEPTH} are allowed"
    try:
        row = json.loads(line.decode(encoding))
    except ValueError as error:
        return f"is not JSON ({error})"
    except RecursionError:
        return too_deep
    if not isinstance(row, dict):
        return f"is {json.dumps(row)[:40]}, not an object"
    if line.count(b"[") + line.count(b"{") > DEPTH and _depth(row) > DEPTH:
        return too_deep
    if b"\\u" in line and not _is_unicode(row):
        return "has half a surrogate pair (\\ud800 to \\udfff), which is no character"
    return row


def _depth(value: object) -> int:
    """Lists and objects in one another, one level at a time: it may be too deep to go down."""
    depth, level = 0, [value]
    while level := [one for one in level if isinstance(one, dict | list)]:
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
        depth += 1
    return depth


def _is_unicode(row: Mapping[str, Any]) -> bool:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _table(source: str, path: Path, split: str, config: str | None, revision: str | None) -> Iterable[dict[str, Any]]:
    """Any other source, through `datasets`."""
    if not path.exists() and _is_path(source, path):
        near = get_close_matches(path.name, [file.name for file in path.parent.glob("*")], n=1)
        hint = f"Did you mean {path.parent / near[0]}?" if near else f"Paths start at {Path.cwd()}."
        raise TaskError(f"task.dataset: {source}: there is no such file or folder. {hint}")
    if path.is_file() and path.suffix not in FORMATS:
        raise TaskError(f"task.dataset: {source}: a data file must be one of {', '.join(FORMATS)}. Convert it.")
    if path.is_file() and not path.stat().st_size:
        return ()

    import datasets

    try:
        if path.is_file():
            table = datasets.load_dataset(FORMATS[path.suffix], data_files={"train": str(path)}, split="train")
        elif (path / "state.json").exists() or (path / "dataset_dict.json").exists():
            table = datasets.load_from_disk(str(path))
            splits = table if isinstance(table, datasets.DatasetDict) else {str(table.split or "train"): table}
            if split not in splits:
                raise ValueError(f'unknown split "{split}"; it has {", ".join(map(str, splits))}')
            table = splits[split]
        else:
            name = source if not path.exists() else str(path)
            table = datasets.load_dataset(name, config, split=split, revision=revision)
        media = [name for name, kind in table.features.items() if _is_media(kind)]
        rows: Iterable[dict[str, Any]] = () if media else [*table]
    except Exception as error:
        if "corresponds to no data" in str(error):  # how `datasets` says that a split has no rows
            return ()
        # `datasets` raises what its readers raise: pandas, pyarrow, network errors
        raise TaskError(f"task.dataset: {source} cannot be read: {_cause(error)}. {_remedy(path, split)}") from error
    if media:
        raise TaskError(
            f"task.dataset: {source}: the column `{media[0]}` holds pictures, sound or other media, and Cohort reads "
            "text only. Leave the column out."
        )
    return rows


def _is_media(kind: Any) -> bool:
    """Whether values of a column's type are decoded into other things than text, numbers, lists and objects."""
    from datasets import Json
    from datasets.features.features import require_decoding

    return bool(require_decoding(kind)) and not isinstance(kind, Json)


def _is_path(source: str, path: Path) -> bool:
    """Whether it can only be meant as a path: a hub id is a name, or an owner and a name."""
    return (
        path.suffix in FORMATS or source.startswith((".", "/", "~")) or source.endswith("/") or source.count("/") > 1
    )


def _cause(error: BaseException) -> str:
    """The innermost message; `datasets` wraps what its readers raise."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300].rstrip('.')}"


def _remedy(path: Path, split: str) -> str:
    if path.is_file():
        return "Correct the file there; its ending must tell its format."
    if path.is_dir():
        return f"Check the folder's files, and task.split ({split})."
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}:
        return "HF_HUB_OFFLINE is set, so nothing is fetched: unset it, or name a local file or folder."
    return f"It is no path, so it was taken as a hub id: check its name, task.split ({split}), the network."


def _wrong(prompt: object) -> str | None:
    """What is wrong with a prompt, if anything."""
    if prompt is None:
        return "`prompt` is missing"
    if isinstance(prompt, str):
        return None if prompt.strip() else "`prompt` is blank"
    if not isinstance(prompt, list):
        return f"`prompt` is {_kind(prompt)}"
    if not prompt:
        return "`prompt` has no messages"
    for number, message in enumerate(prompt, start=1):
        if not isinstance(message, Mapping):
            return f"message {number} of `prompt` is {_kind(message)}"
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                return f"`{key}` of message {number} of `prompt` is {_kind(message.get(key))}"
    last = prompt[-1]["role"]
    return None if last == "user" else f"`prompt` ends with the turn of `{last}`"


def _kind(value: object) -> str:
    return "missing" if value is None else f"{type(value).__name__} ({str(value)[:40]})"


def _listed(problems: list[str]) -> str:
    more = len(problems) - NAMED
    return "; ".join(problems[:NAMED]) + (f"; and {more} more" if more > 0 else "")


def _row(row: Mapping[str, Any], known: list[str], fallback: str) -> Row:
    prompt = row["prompt"]
    if not isinstance(prompt, str):
        prompt = tuple({"role": message["role"], "content": message["content"]} for message in prompt)
    columns = {key: row.get(key) for key in known if key not in ("prompt", "completion", "completion_ids")}
    name = row.get("id")
    return Row(id=fallback if name is None else str(name), prompt=prompt, columns=columns)
