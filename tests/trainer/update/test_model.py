"""Models by name: what is refused before anything is downloaded, one commit for all, and checksums."""

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer
from transformers.models.auto import tokenization_auto

from tests.tiny import load_tiny_model, make_tiny_model
from trainer.update.model import (
    GENERIC,
    NEVER_GENERIC,
    SHIPPED,
    ModelError,
    context_length,
    linear_layers,
    load_tokenizer,
    resolve,
    weight_shapes,
)


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


def test_shapes_of_weights_are_read_from_the_files(model: str, tmp_path: Path) -> None:
    for folder in (model, make_tiny_model(tmp_path, tied=False)):
        tiny, shapes = load_tiny_model(folder), weight_shapes(Path(folder))
        assert shapes == {name: tuple(weight.shape) for name, weight in tiny.named_parameters()}
        inner = {name for name, module in tiny.model.named_modules() if isinstance(module, torch.nn.Linear)}
        assert linear_layers(Path(folder), shapes).keys() == {f"model.{name}" for name in inner}


def test_a_tokenizer_is_the_one_that_auto_tokenizer_gives(model: str) -> None:
    tokenizer, expected = load_tokenizer(model), AutoTokenizer.from_pretrained(model)
    assert type(tokenizer) is type(expected)
    assert tokenizer.init_kwargs == expected.init_kwargs
    assert tokenizer.backend_tokenizer.to_str() == expected.backend_tokenizer.to_str()


@pytest.mark.parametrize("kind", SHIPPED)
@pytest.mark.parametrize("ending", ["", "Fast"])
def test_a_family_s_tokenizer_is_the_one_that_auto_tokenizer_gives(
    kind: str, ending: str, model: str, tmp_path: Path
) -> None:
    """With a fast tokenizer's files, which these classes read in their own way."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(model) / name, tmp_path)
    configured(tmp_path, model_type=kind)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = SHIPPED[kind].partition(".")[2] + ending
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer, expected = load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert type(tokenizer) is type(expected)
    assert type(tokenizer).__name__ == SHIPPED[kind].partition(".")[2]
    assert tokenizer.init_kwargs == expected.init_kwargs
    assert tokenizer.backend_tokenizer.to_str() == expected.backend_tokenizer.to_str()


def test_the_model_types_whose_tokenizers_are_never_generic_are_those_of_transformers() -> None:
    takes = tokenization_auto.TOKENIZER_MAPPING_NAMES
    overruled = {
        kind
        for kind in tokenization_auto.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS
        if takes[kind] not in (*GENERIC, "PythonBackend")
    }
    mistral = {kind for kind, name in takes.items() if name == "MistralCommonBackend"}
    assert overruled | mistral == NEVER_GENERIC


def configured(folder: Path, **config: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        ({"model_type": "llama", "max_position_embeddings": 77}, 77),
        ({"model_type": "gpt2", "n_positions": 88}, 88),
        ({"model_type": "gemma3", "text_config": {"max_position_embeddings": 99}}, 99),
        ({"model_type": "llama"}, 2048),  # by default
    ],
)
def test_the_context_length_is_what_transformers_tells(config: dict[str, Any], tokens: int, tmp_path: Path) -> None:
    folder = configured(tmp_path, **config)
    assert context_length(folder) == tokens
    assert AutoConfig.from_pretrained(folder).get_text_config().max_position_embeddings == tokens


def test_a_model_with_code_of_its_own_is_asked_for_its_context_length(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from transformers import PreTrainedConfig\n\n\n"
        "class Own(PreTrainedConfig):\n    model_type = 'own'\n    max_position_embeddings: int = 66\n"
    )
    configured(tmp_path, model_type="own", auto_map={"AutoConfig": "own.Own"}, max_position_embeddings=66)
    assert context_length(tmp_path, trust_remote_code=True) == 66
    with pytest.raises(ModelError, match=r"model_type 'own'.*set model\.trust_remote_code"):
        context_length(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "config.json cannot be used"),
        ("[]", "holds no JSON object"),
        ('{"model_type": "lama"}', "does not know the model_type 'lama'"),
        ('{"model_type": ["llama"]}', "config.json cannot be used"),
        ('{"model_type": "llama", "text_config": 1}', "config.json cannot be used"),
        ('{"model_type": "llama", "max_position_embeddings": 0}', "names no max_position_embeddings"),
        ('{"model_type": "llama", "max_position_embeddings": "many"}', "names no max_position_embeddings"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=message):
        context_length(tmp_path)


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
