"""Whether DeepSpeed knows what `training.deepspeed` passes on to it: it is asked, with nothing started."""

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from inspect import signature
from typing import Any

from deepspeed.runtime.config import DeepSpeedConfig, DeepSpeedConfigError
from deepspeed.runtime.config_utils import DeepSpeedConfigModel
from torch.optim import AdamW

from configs.loading import merged
from configs.schema import TrainingSettings
from trainer.update.rank import deepspeed_config

CORRECT = "Correct it, or leave it out."


class Asked(dict[str, Any]):
    """A mapping that remembers the names that it was asked for: DeepSpeed ignores those that it does not know."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.names.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)

    def __contains__(self, name: object) -> bool:
        self.names.add(str(name))
        return super().__contains__(name)

    def keys(self) -> Any:
        """Itself, for `name in values.keys()`."""
        return self

    def __copy__(self) -> "Asked":
        return self


def refusals(training: TrainingSettings) -> Iterator[str]:
    """Sentences: what DeepSpeed does not know or take, and what to do."""
    own = deepspeed_config(training.model_copy(update={"deepspeed": {}}), "bfloat16")
    known = Asked(own)
    DeepSpeedConfig(known)
    for name, value in training.deepspeed.items():
        if name in known.names:
            yield from _of_section(own, name, value)
        else:
            yield _unknown(name, known.names)


def _of_section(own: Mapping[str, Any], name: str, value: Any) -> Iterator[str]:
    """Of a name that it knows, beside what Cohort gives."""
    section = merged(own, {name: value})[name]
    asked = Asked(section) if isinstance(section, Mapping) else None
    try:
        DeepSpeedConfig({**own, name: section if asked is None else asked})
    except (DeepSpeedConfigError, ValueError, TypeError, AttributeError, KeyError, AssertionError) as error:
        yield from _of_error(name, value, error)
        return
    if name == "optimizer":
        parameters = signature(AdamW).parameters
        yield from (
            _unknown(f"optimizer.params.{key}", parameters) for key in {*value.get("params", {})} - parameters.keys()
        )
    if asked is not None and asked.names and name != "zero_optimization":  # whose model has looked at all of it
        yield from (_unknown(f"{name}.{key}", asked.names) for key in {*value} - asked.names)


def _of_error(name: str, value: Any, error: Any) -> Iterator[str]:
    """error: of one of DeepSpeed's pydantic models, which has the problems one by one, or of its own."""
    if not hasattr(error, "errors"):
        yield f"DeepSpeed does not take {name} {value!r}: {str(error).rstrip('.')}. {CORRECT}"
        return
    for problem in error.errors(include_url=False):
        where = ".".join(map(str, (name, *problem["loc"])))
        if problem["type"] == "extra_forbidden":
            yield _unknown(where, _fields(error.title) if len(problem["loc"]) == 1 else ())
        else:
            yield f"DeepSpeed does not take {where} {problem['input']!r}: {problem['msg']}. {CORRECT}"


def _unknown(where: str, known: Iterable[str]) -> str:
    """where: a dotted name, whose last part is none of `known`."""
    near = get_close_matches(where.rpartition(".")[2], known, n=2)
    return f"DeepSpeed has no setting {where}. " + (f"Did you mean {' or '.join(near)}?" if near else CORRECT)


def _fields(title: str) -> set[str]:
    """Names in the section that one of DeepSpeed's models describes. title: the model's name."""
    names: set[str] = set()
    models: list[type[DeepSpeedConfigModel]] = [DeepSpeedConfigModel]
    while models:
        model = models.pop()
        models += model.__subclasses__()
        if model.__name__ == title:
            names |= {field.alias or key for key, field in model.model_fields.items()}
    return names
