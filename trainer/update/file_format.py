"""Weights as a model's own files have them, which is what engines load: transformers may hold several of theirs as
one (the experts of a layer), or under another name. It converts back when it saves a model; here that is done a few
weights at a time."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def together(model: Any, names: Sequence[str]) -> list[list[str]]:
    """`names` in groups that `in_files` takes: those that make one of the files' weights together, most alone.

    model: a `PreTrainedModel`. names: of all its weights.
    """
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    backwards = [conversion.reverse_transform() for conversion in _conversions(model)[::-1]]
    renamings = [one for one in backwards if isinstance(one, WeightRenaming)]
    converters = [one for one in backwards if isinstance(one, WeightConverter)]
    groups: dict[str, list[str]] = {}
    for name in names:
        in_file, _ = rename_source_key(name, renamings, converters, reverse=True)
        groups.setdefault(in_file, []).append(name)
    return list(groups.values())


def in_files(model: Any, weights: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The same weights by their names in the files; also those on torch's `meta` device, for their shapes.

    weights: one of the groups of `together`.
    """
    from transformers.core_model_loading import revert_weight_conversion

    yield from (revert_weight_conversion(model, dict(weights)) if _conversions(model) else weights).items()


def _conversions(model: Any) -> list[Any]:
    """What `from_pretrained` did to the files' weights."""
    return getattr(model, "_weight_conversions", None) or []
