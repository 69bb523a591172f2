"""Models by name: what is refused, before anything is downloaded."""

from pathlib import Path

import pytest

from trainer.update.model import ModelError, resolve


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
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE"):
        resolve("someone/no-such-model")
