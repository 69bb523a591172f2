"""LoRA (arXiv 2106.09685) through peft: adapters beside frozen linear layers, and the weights that come of both.

peft puts a layer of its own in the place of a linear one: `base_layer` with the weight W, and the factors A and B.
What engines get and `model/` holds is W + lora_alpha / lora_rank × B A, under W's own name. W itself never changes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from configs.schema import ALL_LINEAR, TrainingSettings
from trainer.update.model import ModelError

ADAPTER = "default"
"""peft's name of the only adapter."""


def targeted(layers: Iterable[str], targets: Sequence[str]) -> list[str]:
    """Of `layers` those that `training.lora_target_modules` means, by peft's rule: whole dotted ends of their names.

    >>> targeted(["model.layers.0.q_proj", "model.layers.0.k_proj"], ["q_proj"])
    ['model.layers.0.q_proj']
    """
    return [
        layer
        for layer in layers
        if tuple(targets) == ALL_LINEAR or any(f".{layer}".endswith(f".{target}") for target in targets)
    ]


def adapter_size(layers: Mapping[str, Sequence[int]], training: TrainingSettings) -> int:
    """Weights of the adapter, 0 without one. layers: shapes of the model's linear layers by their names."""
    if training.lora_rank is None:
        return 0
    return sum(training.lora_rank * sum(layers[name]) for name in targeted(layers, training.lora_target_modules))


def adapted(model: Any, training: TrainingSettings) -> Any:
    """peft's `PeftModel` of `model`, which has the adapter inside from now on; all other weights are frozen. Without
    `training.lora_rank` None, and the model is as it was.

    B is 0 at first, so nothing the model says has changed; A is random. Raises ModelError: the layers asked for are
    none that it could have one beside.
    """
    if training.lora_rank is None:
        return None
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import Linear, LoraLayer

    targets = training.lora_target_modules
    # peft's own "all-linear" takes experts and their routers too, which are parameters and no layers.
    names = sorted(_linear(model)) if targets == ALL_LINEAR else list(targets)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=training.lora_rank,
        lora_alpha=training.lora_alpha or 2 * training.lora_rank,
        target_modules=names,
    )
    try:
        peft_model = get_peft_model(model, config, ADAPTER, autocast_adapter_dtype=False)
    except ValueError as error:
        raise ModelError(f"training.lora_target_modules: {list(targets)} cannot be adapted: {error}") from error
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer) and type(layer) is not Linear:
            raise ModelError(
                f"training.lora_target_modules: {list(targets)} includes {name}, which is no linear layer. "
                "Leave it out."
            )
    return peft_model


def _linear(model: Any) -> Iterator[str]:
    """Names of all linear layers but the head."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    for name, layer in model.named_modules():
        if isinstance(layer, Linear | Conv1D) and layer is not head:
            yield name


@dataclass(frozen=True)
class Weight:
    """A weight by the name that the model's own files have for it.

    base: as the module holds it. layer: peft's, where an adapter changes it, else None.
    """

    name: str
    base: Any
    layer: Any | None

    @property
    def parts(self) -> list[Any]:
        """The parameters that `whole` reads, which must be there whole."""
        if self.layer is None:
            return [self.base]
        return [self.base, self.layer.lora_A[ADAPTER].weight, self.layer.lora_B[ADAPTER].weight]

    def whole(self) -> Any:
        """The weight, with what the adapter adds: computed in float32, rounded once to the weight's dtype."""
        base, *factors = (part.detach() for part in self.parts)
        if self.layer is None:
            return base
        a, b = (factor.float() for factor in factors)
        added = b @ a * self.layer.scaling[ADAPTER]
        return (base.float() + (added.T if self.layer.fan_in_fan_out else added)).to(base.dtype)


def weights(model: Any) -> Iterator[Weight]:
    """All weights of a model, which has an adapter inside or not."""
    for name, parameter in model.named_parameters():
        module, _, kind = name.rpartition(".")
        layer, _, inner = module.rpartition(".")
        if inner == "base_layer":
            yield Weight(f"{layer}.{kind}", parameter, model.get_submodule(layer) if kind == "weight" else None)
        elif not is_factor(name):
            yield Weight(name, parameter, None)


def is_factor(name: str) -> bool:
    """Whether a parameter's name is of an adapter."""
    return any(f".{factor}.{ADAPTER}." in name for factor in ("lora_A", "lora_B"))


def save(peft_model: Any, factors: Mapping[str, Any], folder: Path) -> None:
    """The adapter alone, as `PeftModel.from_pretrained` takes it.

    factors: whole, on the CPU, by their names in the model. Raises OSError, SafetensorError.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    config = peft_model.peft_config[ADAPTER]
    replace(config, inference_mode=True, target_modules=sorted(config.target_modules)).save_pretrained(folder)
    state = {f"base_model.model.{name}": factor for name, factor in factors.items()}
    tensors = get_peft_model_state_dict(peft_model, state_dict=state, save_embedding_layers=False)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
