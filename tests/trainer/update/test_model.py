"""Models by name: what is refused before anything is downloaded, one commit for all, and checksums."""

import shutil
import socket
from pathlib import Path

import pytest

from tests.tiny import load_tiny_model
from trainer.update.model import ModelError, parameter_count, resolve


def test_a_misspelled_bundled_name_is_refused_with_the_one_meant() -> None:
    with pytest.raises(ModelError, match=r"smollm-135m.*Did you mean 'smollm2-135m'"):
        resolve("smollm-135m")


def test_a_missing_gguf_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        resolve(str(tmp_path / "none.gguf"))


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        resolve(str(tmp_path / "none"))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        resolve(str(tmp_path))


def test_a_hub_id_offline_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE"):
        resolve("someone/no-such-model")


def test_a_revision_of_a_folder_is_refused(model: str) -> None:
    with pytest.raises(ModelError, match="only allowed with a hub id"):
        resolve(model, "main")


def test_the_tensors_in_the_files_are_counted(model: str) -> None:
    assert parameter_count(Path(model)) == sum(weight.numel() for weight in load_tiny_model(model).parameters())


OLD, NEW = "1" * 40, "2" * 40


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str) -> Path:
    """The hub's cache with two commits of someone/tiny: `v1` is the tag of the old one, and main is the new one."""
    store = tmp_path / "models--someone--tiny"
    for commit in (OLD, NEW):
        shutil.copytree(model, store / "snapshots" / commit)
    (store / "refs").mkdir()
    (store / "refs" / "v1").write_text(OLD)
    (store / "refs" / "main").write_text(NEW)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    return store / "snapshots"


@pytest.mark.parametrize(("revision", "commit"), [(None, NEW), ("main", NEW), ("v1", OLD), (OLD, OLD)])
def test_a_hub_id_is_one_commit_from_then_on(revision: str | None, commit: str, hub: Path) -> None:
    source = resolve("someone/tiny", revision)
    assert (source.name, source.revision, source.folder) == ("someone/tiny", commit, hub / commit)


def test_a_revision_that_the_hub_does_not_have_is_refused(hub: Path) -> None:
    with pytest.raises(ModelError, match=r"'someone/tiny', model.revision = 'v2': .* hub does not give it"):
        resolve("someone/tiny", "v2")


def test_a_hub_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        with pytest.raises(ModelError, match=r"takes longer than cluster.start_timeout, 3 s"):
            resolve("someone/tiny", limit=3.0)


@pytest.fixture
def unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str) -> tuple[Path, list[Path]]:
    """A .gguf file, and where it was unpacked: each time the tiny model comes out."""
    made: list[Path] = []

    def unpack(gguf: Path, folder: Path) -> None:
        made.append(folder)
        shutil.copytree(model, folder, dirs_exist_ok=True)

    monkeypatch.setattr("trainer.update.model._unpack", unpack)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "tiny.gguf").write_text("GGUF")
    return tmp_path / "tiny.gguf", made


def test_a_model_is_unpacked_once(unpacked: tuple[Path, list[Path]]) -> None:
    gguf, made = unpacked
    assert resolve(str(gguf)) == resolve(str(gguf))
    assert len(made) == 1


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json", "sha256.json"])
@pytest.mark.parametrize("damage", ["a bit", "cut off", "gone"])
def test_a_damaged_one_is_named_and_unpacked_again(
    file: str, damage: str, unpacked: tuple[Path, list[Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    gguf, made = unpacked
    damaged = resolve(str(gguf)).folder / file
    content = damaged.read_bytes()
    if damage == "gone":
        damaged.unlink()
    else:
        damaged.write_bytes(content[:-1] + (bytes([content[-1] ^ 1]) if damage == "a bit" else b""))
    folder = resolve(str(gguf)).folder
    assert len(made) == 2
    assert (folder / file).read_bytes() == content
    error = capsys.readouterr().err
    assert error.startswith(f"{folder}: ") and "it is removed and unpacked again" in error
    assert resolve(str(gguf)).folder == folder and len(made) == 2


@pytest.mark.parametrize("empty", ["", None])
def test_the_cache_is_in_the_home_directory_unless_it_is_named(
    empty: str | None, unpacked: tuple[Path, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    if empty is None:
        monkeypatch.delenv("XDG_CACHE_HOME")
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", empty)
    assert resolve(str(unpacked[0])).folder.parent == tmp_path / "home" / ".cache" / "cohort" / "models"
