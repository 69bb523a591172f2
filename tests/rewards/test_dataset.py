import json
import sys
from pathlib import Path
from typing import Any

import pytest

from rewards.dataset import read
from rewards.errors import TaskError

CHAT = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "3 + 4?"}]
ROWS = [{"prompt": "1 + 1?", "answer": "2"}, {"prompt": "2 + 2?", "answer": "4"}]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def lines(path: Path, rows: list[Any]) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def refused(source: str, split: str = "train") -> str:
    with pytest.raises(TaskError) as error:
        read(source, split)
    return str(error.value)


def write(form: str, folder: Path) -> str:
    """ROWS in one of the forms a data set can have."""
    import datasets

    table = datasets.Dataset.from_list(ROWS)
    path = folder / f"sums.{form}"
    match form:
        case "jsonl":
            return lines(path, ROWS)
        case "json":
            path.write_text(json.dumps(ROWS))
        case "csv":
            table.to_csv(path)
        case "parquet":
            table.to_parquet(path)
        case "saved":
            table.save_to_disk(path)
        case "saved-splits":
            datasets.DatasetDict({"train": table, "test": table.select([1])}).save_to_disk(path)
        case "folder":
            path.mkdir()
            table.to_parquet(path / "train.parquet")
    return str(path)


@pytest.mark.parametrize("form", ["jsonl", "json", "csv", "parquet", "saved", "saved-splits", "folder"])
def test_every_form_of_data_set_is_read(form: str, tmp_path: Path) -> None:
    rows = read(write(form, tmp_path), "train")
    assert [row.prompt for row in rows] == ["1 + 1?", "2 + 2?"]
    assert [str(row.columns["answer"]) for row in rows] == ["2", "4"]
    assert [list(row.columns) for row in rows] == [["answer"], ["answer"]]
    assert [row.id for row in rows] == ["sums-0", "sums-1"]


def test_a_split_is_chosen(tmp_path: Path) -> None:
    assert [row.prompt for row in read(write("saved-splits", tmp_path), "test")] == ["2 + 2?"]


@pytest.mark.parametrize("form", ["saved-splits", "folder"])
def test_an_unknown_split_is_refused(form: str, tmp_path: Path) -> None:
    message = refused(write(form, tmp_path), "validation")
    assert "validation" in message and "train" in message and "task.split" in message


@pytest.mark.parametrize("form", ["jsonl", "json", "csv", "parquet", "saved"])
def test_what_has_no_splits_is_all_train(form: str, tmp_path: Path) -> None:
    source = write(form, tmp_path)
    assert len(read(source, "train")) == len(ROWS)
    message = refused(source, "validation")
    assert "task.split" in message and "validation" in message


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_chat_messages_are_a_prompt(form: str, tmp_path: Path) -> None:
    path = tmp_path / f"chat.{form}"
    lines(tmp_path / "chat.jsonl", [{"prompt": CHAT, "answer": 7}])
    if form == "parquet":
        import datasets

        datasets.Dataset.from_list([{"prompt": CHAT, "answer": 7}]).to_parquet(path)
    (row,) = read(str(path), "train")
    assert row.prompt == tuple(CHAT)
    assert row.columns == {"answer": 7}


def test_the_column_id_names_the_prompts(tmp_path: Path) -> None:
    source = lines(tmp_path / "d.jsonl", [{"id": 7, "prompt": "a"}, {"id": "x", "prompt": "b"}, {"prompt": "c"}])
    rows = read(source, "train")
    assert [row.id for row in rows] == ["7", "x", "d-2"]
    assert rows[2].columns == {"id": None}


def test_lines_may_differ_in_columns_and_types_and_be_empty(tmp_path: Path) -> None:
    source = lines(tmp_path / "d.jsonl", [{"prompt": "a\u2028b", "x": 1}, "", {"y": "z", "prompt": CHAT, "x": "one"}])
    assert [row.columns for row in read(source, "train")] == [{"x": 1, "y": None}, {"x": "one", "y": "z"}]


def test_columns_that_trl_does_not_pass_on_are_left_out(tmp_path: Path) -> None:
    source = lines(tmp_path / "d.jsonl", [{"prompt": "a", "completion": "b", "completion_ids": [1], "answer": 2}])
    assert read(source, "train")[0].columns == {"answer": 2}


def test_broken_lines_are_named_by_number(tmp_path: Path) -> None:
    message = refused(lines(tmp_path / "d.jsonl", [ROWS[0], '{"prompt": "cut', "", ROWS[1], "[1, 2]"]))
    assert "d.jsonl: line 2 is not JSON" in message
    assert "line 5 is [1, 2], not an object" in message
    assert '{"prompt": "..."}' in message


def test_a_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'{"prompt": "a"}\n{"prompt": "\xff"}\n')
    assert "line 2 is not JSON" in refused(str(path))


@pytest.mark.parametrize(
    "line", ['{"prompt": "\\ud800"}', '{"prompt": "a", "x": ["\\udfff"]}', '{"prompt": "a", "\\uD800": 1}']
)
def test_half_a_surrogate_pair_is_named(line: str, tmp_path: Path) -> None:
    assert "line 2 has half a surrogate pair" in refused(lines(tmp_path / "d.jsonl", [ROWS[0], line]))


def test_a_whole_surrogate_pair_is_a_character(tmp_path: Path) -> None:
    assert read(lines(tmp_path / "d.jsonl", ['{"prompt": "\\ud83d\\ude00"}']), "train")[0].prompt == "\U0001f600"


@pytest.mark.parametrize("depth", [100, 500, 200_000])
def test_rows_that_nest_too_deep_are_named(depth: int, tmp_path: Path) -> None:
    row = f'{{"prompt": "a", "x": {"[" * depth}{"]" * depth}}}'
    assert "line 1 nests lists or objects too deep; 100 are allowed" in refused(lines(tmp_path / "d.jsonl", [row]))


def test_rows_may_nest_and_have_many_lists(tmp_path: Path) -> None:
    row = {"prompt": "a", "x": json.loads("[" * 99 + "]" * 99), "y": [[1]] * 200}
    assert read(lines(tmp_path / "d.jsonl", [row]), "train")[0].columns["y"] == [[1]] * 200


@pytest.mark.parametrize("source", ["a" * 300, "/tmp/" + "a" * 300 + ".jsonl", "~nobody-of-that-name/d.jsonl"])
def test_what_is_no_name_of_a_file_is_refused(source: str) -> None:
    assert f"task.dataset: {source} is no name of a file" in refused(source)


def test_pictures_are_refused(tmp_path: Path) -> None:
    import datasets

    pictures = datasets.Image()
    features = datasets.Features(prompt=datasets.Value("string"), seen=datasets.List(pictures))
    table = datasets.Dataset.from_dict({"prompt": ["What is this?"], "seen": [[]]}, features=features)
    table.save_to_disk(tmp_path / "d")
    assert "the column `seen` holds pictures" in refused(str(tmp_path / "d"))


def test_many_broken_lines_are_counted(tmp_path: Path) -> None:
    message = refused(lines(tmp_path / "d.jsonl", ["{"] * 9))
    assert "line 5 " in message and "line 6 " not in message and "and 4 more" in message


BAD_PROMPTS = {
    "number": (3, "`prompt` is int (3)"),
    "null": (None, "`prompt` is missing"),
    "blank": ("  ", "`prompt` is blank"),
    "no messages": ([], "`prompt` has no messages"),
    "texts for messages": (["hi"], "message 1 of `prompt` is str (hi)"),
    "no role": ([{"content": "hi"}], "`role` of message 1 of `prompt` is missing"),
    "number for content": (
        [CHAT[0], {"role": "user", "content": 3}],
        "`content` of message 2 of `prompt` is int (3)",
    ),
    "answer at the end": (
        [*CHAT, {"role": "assistant", "content": "7"}],
        "ends with the turn of `assistant`",
    ),
}


@pytest.mark.parametrize("case", BAD_PROMPTS)
def test_a_prompt_of_the_wrong_type_is_named_by_line(case: str, tmp_path: Path) -> None:
    prompt, wrong = BAD_PROMPTS[case]
    message = refused(lines(tmp_path / "d.jsonl", [ROWS[0], {"prompt": prompt}]))
    assert "line 2: " in message and wrong in message
    assert "A prompt is text, or a list of messages" in message


def test_a_prompt_of_the_wrong_type_is_named_by_row(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("prompt,answer\nhello,1\n,2\n")
    assert "d.csv: row 2: `prompt` is missing" in refused(str(path))


@pytest.mark.parametrize(
    ("content", "form"),
    [("", "jsonl"), ("\n\n", "jsonl"), ("prompt,answer\n", "csv"), ("[]", "json"), ("", "json"), ("", "csv")],
)
def test_an_empty_data_set_is_refused(content: str, form: str, tmp_path: Path) -> None:
    path = tmp_path / f"d.{form}"
    path.write_text(content)
    message = refused(str(path))
    assert f"{path} is empty. It needs at least one row with a column `prompt`." in message


def test_a_missing_column_is_refused_naming_the_others(tmp_path: Path) -> None:
    message = refused(lines(tmp_path / "d.jsonl", [{"prompts_": "a", "answer": 1}]))
    assert (
        "has no column `prompt`; its columns are prompts_, answer. Rename `prompts_` to `prompt`, or set " in message
    )
    message = refused(lines(tmp_path / "d.jsonl", [{"question": "a"}]))
    assert "its columns are question. Name the column with the questions `prompt`, or set task.columns:" in message


def test_a_column_that_would_hide_an_argument_is_refused(tmp_path: Path) -> None:
    assert "a column `completions`" in refused(lines(tmp_path / "d.jsonl", [{"prompt": "a", "completions": 1}]))


@pytest.mark.parametrize("name", ["sum.jsonl", "no/such/folder", "./nowhere"])
def test_a_missing_file_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines(tmp_path / "sums.jsonl", ROWS)
    message = refused(name)
    assert f"task.dataset: {name}: there is no such file or folder" in message
    assert ("Did you mean sums.jsonl?" if name == "sum.jsonl" else f"Paths start at {tmp_path}") in message


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.xlsx"
    path.touch()
    assert "must be one of .jsonl, .json, .parquet, .csv" in refused(str(path))


def test_a_broken_line_of_a_csv_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("prompt,answer\na,b\nc,d,e\n")
    assert "Expected 2 fields in line 3, saw 3" in refused(str(path))


def test_a_broken_json_file_is_refused_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text('{"prompt": "a"}\n{"prompt": \n')
    assert "JSON parse error: Invalid value. in row 1. Correct the file there" in refused(str(path))
    path.write_text('[{"prompt": "a"},\n {"prompt": ]')
    assert "Expected object or value at position 29. Correct the file there" in refused(str(path))


def test_a_row_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text('[{"prompt": "a", "x": {"": null, "\\u0000": null}}]')
    assert f"{path} cannot be read: ValueError" in refused(str(path))


def test_a_broken_table_is_refused_with_its_cause(tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    path.write_text("not parquet")
    message = refused(str(path))
    assert f"{path} cannot be read" in message and "Correct the file there" in message


@pytest.mark.parametrize(("offline", "remedy"), [("1", "HF_HUB_OFFLINE is set"), ("", "taken as a hub id")])
def test_a_hub_id_that_cannot_be_had(offline: str, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load_dataset(name: str, config: str | None, *, split: str, revision: str | None) -> None:
        asked.append((name, config, split, revision))
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    message = refused("someone/sums", "test")
    assert asked == [("someone/sums", None, "test", None)]
    with pytest.raises(TaskError):
        read("someone/sums", "test", "main", "v2")
    assert asked[1:] == [("someone/sums", "main", "test", "v2")]
    assert "task.dataset: someone/sums cannot be read: ConnectionError: no route" in message and remedy in message


def test_columns_can_be_called_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"question": "1 + 1?", "answer": "2", "level": 1}\n{"question": "2 + 2?", "level": 2}')
    first, second = read(str(path), "train", columns={"prompt": "question", "solution": "answer", "right": "answer"})
    assert (first.prompt, first.columns) == ("1 + 1?", {"level": 1, "solution": "2", "right": "2"})
    assert (second.prompt, second.columns) == ("2 + 2?", {"level": 2, "solution": None, "right": None})
    swapped = read(str(path), "train", columns={"prompt": "question", "answer": "level", "level": "answer"})
    assert swapped[0].columns == {"answer": 1, "level": "2"}
    with pytest.raises(TaskError, match=r"task\.columns: .* has no column `questoin`; .* Did you mean `question`"):
        read(str(path), "train", columns={"prompt": "questoin"})
    with pytest.raises(
        TaskError, match=r"task\.columns: level: answer is not allowed: .* a column `level` of its own"
    ):
        read(str(path), "train", columns={"prompt": "question", "level": "answer"})
    with pytest.raises(TaskError, match=r"task\.config: main is not allowed: .* is a single file"):
        read(str(path), "train", "main")


def test_importing_rewards_imports_no_heavy_library() -> None:
    import subprocess

    code = "import sys, rewards.task; print({'datasets', 'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
