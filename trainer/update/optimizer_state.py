"""What a rank knows besides the untrained model, whole and as plain tensors: of the weights that are trained, the
masters and Adam's moments.

DeepSpeed's own checkpoints are pickles, cut up as the ranks were. These are safetensors files with whole tensors
under the weights' names, so that any number of ranks can go on with them, at any ZeRO stage, and reading them runs no
code. Every float is written as it is: a rank that goes on computes what it would have computed.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Adam's, as torch calls them."""

SHARD_BYTES = 1 << 30
"""Tensors that a file holds, and memory at a time."""

MASTER = "master"
"""The float32 weight that the optimizer works on."""


def save(engine: Any, folder: Path, writes: bool) -> None:
    """Writes the optimizer's state into `folder`: a collective over all ranks, of which one writes.

    engine: DeepSpeed's, between two updates. Raises OSError, SafetensorError: it cannot be written; after all ranks
    have done their part, so that none waits for the one that writes.
    """
    steps = [int(state["step"]) for state in _adam(engine).state.values() if "step" in state]
    writer = _Writer(folder)
    for name, weight in _weights(engine):
        for key in (MASTER, *(MOMENTS if steps else ())):
            whole = _read(engine, weight, key)
            if writes:
                writer.add(f"{name}:{key}", whole)
    if writes:
        files = writer.close()
        record = {"steps": max(steps, default=0), "schedule": _schedule(engine), "files": files}
        (folder / "optimizer.json").write_text(json.dumps(record), encoding="utf-8")


class _Writer:
    """Tensors to files of about SHARD_BYTES."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shard: dict[str, Tensor] = {}
        self._files: dict[str, str] = {}
        self._failure: Exception | None = None

    def add(self, name: str, tensor: Tensor) -> None:
        """What fails is told by `close`."""
        self._shard[name] = tensor
        if sum(one.nbytes for one in self._shard.values()) >= SHARD_BYTES:
            self._flush()

    def close(self) -> dict[str, str]:
        """The file of each tensor. Raises what failed."""
        self._flush()
        if self._failure:
            raise self._failure
        return self._files

    def _flush(self) -> None:
        file = f"optimizer-{len(set(self._files.values())) + 1:05}.safetensors"
        try:
            if self._failure is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                save_file(self._shard, self._folder / file)
        except (OSError, SafetensorError) as error:
            self._failure = error
        self._files |= dict.fromkeys(self._shard, file)
        self._shard = {}


def load(engine: Any, folder: Path) -> None:
    """The state that `save` wrote, into an engine that has made no update: a collective over all ranks."""
    record = json.loads((folder / "optimizer.json").read_text(encoding="utf-8"))
    files: Mapping[str, str] = record["files"]
    if record["steps"]:
        _begin(engine, record["steps"])
    opened: dict[str, Any] = {file: safe_open(folder / file, framework="pt") for file in sorted(set(files.values()))}
    for name, weight in _weights(engine):
        for key in (MASTER, *(MOMENTS if record["steps"] else ())):
            value = opened[files[f"{name}:{key}"]].get_tensor(f"{name}:{key}")
            _write(engine, weight, key, value)
    schedule, groups = record["schedule"], _adam(engine).param_groups
    engine.lr_scheduler.load_state_dict(schedule | {"lr_lambdas": [None] * len(groups)})
    for group, rate in zip(groups, schedule["_last_lr"], strict=True):
        group["lr"] = rate


def _schedule(engine: Any) -> dict[str, Any]:
    state: dict[str, Any] = engine.lr_scheduler.state_dict()
    return {name: value for name, value in state.items() if name != "lr_lambdas"}  # functions, made from the settings


def _weights(engine: Any) -> Iterator[tuple[str, Tensor]]:
    """Those that are trained: all, or an adapter's."""
    for name, weight in engine.module.model.named_parameters():
        if weight.requires_grad:
            yield name, weight


def _adam(engine: Any) -> torch.optim.Optimizer:
    """torch's optimizer, inside DeepSpeed's wrapper where there is one."""
    adam: torch.optim.Optimizer = getattr(engine.optimizer, "optimizer", engine.optimizer)
    return adam


def _is_whole(engine: Any) -> bool:
    """Whether weights are their own masters, whole on every rank (ZeRO stage 0, which is float32)."""
    return not engine.zero_optimization()


def _read(engine: Any, weight: Tensor, key: str) -> Tensor:
    """The whole master, or one of its moments, on the CPU."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    if _is_whole(engine):
        whole = weight if key == MASTER else _adam(engine).state[weight][key]
    else:
        whole = safe_get_full_fp32_param(weight) if key == MASTER else safe_get_full_optimizer_state(weight, key)
    copied: Tensor = whole.detach().to("cpu", copy=True).contiguous()
    return copied


def _write(engine: Any, weight: Any, key: str, value: Tensor) -> None:
    """`_read`'s value back to where it was; of a master, the weight itself too."""
    import deepspeed
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    with torch.no_grad():
        if _is_whole(engine):
            (weight if key == MASTER else _adam(engine).state[weight][key]).copy_(value)
            return
        if key != MASTER:
            safe_set_full_optimizer_state(weight, value.to(weight.device), key)
            return
        safe_set_full_fp32_param(weight, value.to(weight.device))
        if hasattr(weight, "ds_id"):  # ZeRO stage 3: each rank keeps its part of what rank 0 writes
            with deepspeed.zero.GatheredParameters([weight], modifier_rank=0):
                if torch.distributed.get_rank() == 0:
                    weight.copy_(value)
        else:
            weight.copy_(value)


def _begin(engine: Any, steps: int) -> None:
    """Makes room for moments, which an optimizer without an update has not."""
    adam, wrapper = _adam(engine), engine.optimizer
    flat = getattr(wrapper, "fp32_partitioned_groups_flat", None)  # ZeRO stage 3 sets them group by group
    masters = flat or [master for group in adam.param_groups for master in group["params"]]
    for master in masters:
        moments = {key: torch.zeros_like(master) for key in MOMENTS}
        step = torch.tensor(float(steps), device=master.device)  # where a fused AdamW looks for it
        adam.state[master] = {"step": step, **moments}
    if hasattr(wrapper, "_lazy_init_hp_params_optimizer_state"):  # ZeRO stages 1 and 2: which part is whose
        wrapper._lazy_init_hp_params_optimizer_state()
