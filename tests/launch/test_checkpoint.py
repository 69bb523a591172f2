"""Checkpoints: complete, verified, or not there."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from launch import checkpoint
from launch.checkpoint import Damaged, Record
from tests.trainer.test_state import begun, run
from trainer.state import RunState

RUN = run()


def record(step: int = 0, evaluated: float | None = None) -> Record:
    state: RunState = replace(begun(RUN), step=step)
    return Record(state, evaluated, "{}", {"prompts": "abc"}, {"metrics.jsonl": 12}, ("While sampling: ...",))


def saved(path: str) -> None:
    """What ranks write."""
    folder = Path(path)
    (folder / "model").mkdir()
    (folder / "model" / "model.safetensors").write_bytes(bytes(range(100)))
    (folder / "optimizer-00001.safetensors").write_bytes(bytes(1000))
    (folder / "optimizer.json").write_text("{}")


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    written = checkpoint.write(tmp_path, record(12), saved)
    found = checkpoint.read(written.path)
    assert written.path.name == "step-000012"
    assert found.record.state.to_json() == written.record.state.to_json()
    assert replace(found.record, state=written.record.state) == written.record
    assert (found.model_path / "model.safetensors").read_bytes() == bytes(range(100))
    assert [path.name for path in tmp_path.iterdir()] == ["step-000012"]


FILES = ["model/model.safetensors", "optimizer-00001.safetensors", "optimizer.json", "record.json", "manifest.json"]


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", [shorten, flip, Path.unlink])
def test_a_damaged_one_is_named_and_the_one_before_it_is_used(
    tmp_path: Path, file: str, damage: Callable[[Path], None]
) -> None:
    first, second = (checkpoint.write(tmp_path, record(step), saved) for step in (3, 6))
    damage(second.path / file)
    told: list[str] = []
    found = checkpoint.latest(tmp_path, told.append)
    assert found is not None
    assert found.path == first.path
    assert len(told) == 1
    assert str(second.path) in told[0]
    with pytest.raises(Damaged):
        checkpoint.read(second.path)


def test_one_that_fails_leaves_the_others_and_nothing_of_itself(tmp_path: Path) -> None:
    kept = checkpoint.write(tmp_path, record(3), saved)

    def full(path: str) -> None:
        saved(path)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        checkpoint.write(tmp_path, record(4), full)
    assert list(tmp_path.iterdir()) == [kept.path]
    with pytest.raises(Damaged, match="all machines of the cluster share"):
        checkpoint.write(tmp_path, record(4), lambda path: None)
    assert list(tmp_path.iterdir()) == [kept.path]


def test_one_that_was_not_finished_is_none(tmp_path: Path) -> None:
    unfinished = tmp_path / "unfinished-step-000009"
    unfinished.mkdir()
    saved(str(unfinished))
    assert checkpoint.latest(tmp_path, pytest.fail) is None
    checkpoint.prune(tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


def test_the_latest_and_the_best_are_kept(tmp_path: Path) -> None:
    for step, reward in ((1, 0.2), (2, 0.9), (3, 0.9), (1_000_000, None), (1_000_001, 0.5)):
        checkpoint.write(tmp_path, record(step, reward), saved)
    assert [int(path.name[5:]) for path in checkpoint.paths(tmp_path)] == [1, 2, 3, 1_000_000, 1_000_001]
    checkpoint.prune(tmp_path, 2)
    assert [int(path.name[5:]) for path in checkpoint.paths(tmp_path)] == [2, 1_000_000, 1_000_001]


def test_another_versions_record_is_refused(tmp_path: Path) -> None:
    written = checkpoint.write(tmp_path, record(3), saved)
    path = written.path / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 99}))
    manifest = json.loads((written.path / "manifest.json").read_text())
    manifest["record.json"] = checkpoint._digest(path)
    (written.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Damaged, match="written by another version of Cohort"):
        checkpoint.read(written.path)
