"""What a rank knows besides its weights, whole and as plain tensors: master weights and Adam's moments.

DeepSpeed's own checkpoints are pickles, cut up as the ranks were. These are safetensors files with whole tensors under
the weights' names, so that any number of ranks can go on with them, at any ZeRO stage, and reading them runs no code.
Every float is written as it is: a rank that goes on computes what it would have computed.
"""

import json
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Adam's, as torch calls them."""

SHARD_BYTES = 1 << 30
"""Tensors that a file holds, and memory at a time."""

MASTER = "master"
"""The float32 weight that the optimizer works on."""


def save(engine: Any, folder: Path, writes: bool) -> None:
    """Writes the optimizer's state into `folder`: a collective over all ranks, of which one writes.

    engine: DeepSpeed's, between two updates.
    """
    steps = [int(state["step"]) for state in _adam(engine).state.values() if "step" in state]
    keys = (MASTER, *(MOMENTS if steps else ()))
    shard: dict[str, Tensor] = {}
    files: dict[str, str] = {}

    def flush() -> None:
        if writes and shard:
            file = f"optimizer-{len(set(files.values())) + 1:05}.safetensors"
            _save_file(shard, folder / file)
            files.update(dict.fromkeys(shard, file))
        shard.clear()

    size = 0
    for name, weight in _weights(engine):
        for key in keys:
            whole = _read(engine, weight, key)
            if writes:
                shard[f"{name}:{key}"] = whole
                size += whole.nbytes
        if size >= SHARD_BYTES:
            flush()
            size = 0
    flush()
    if writes:
        text = json.dumps({"steps": max(steps, default=0), "schedule": _schedule(engine), "files": files})
        (folder / "optimizer.json").write_text(text, encoding="utf-8")


def load(engine: Any, folder: Path) -> None:
    """The state that `save` wrote, into an engine that has made no update: a collective over all ranks."""
    record = json.loads((folder / "optimizer.json").read_text(encoding="utf-8"))
    files: Mapping[str, str] = record["files"]
    if record["steps"]:
        _begin(engine, record["steps"])
    opened = {file: _open_file(folder / file) for file in sorted(set(files.values()))}
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
    yield from engine.module.model.named_parameters()


def _adam(engine: Any) -> torch.optim.Optimizer:
    """torch's optimizer, inside DeepSpeed's wrapper where there is one."""
    adam: torch.optim.Optimizer = getattr(engine.optimizer, "optimizer", engine.optimizer)
    return adam


def _masters(engine: Any) -> dict[int, Tensor] | None:
    """Each weight's master by the weight's id, where a rank has them whole (ZeRO stage 0); None where ranks share."""
    if engine.zero_optimization_stage():
        return None
    wrapper = engine.optimizer
    if not hasattr(wrapper, "fp32_groups"):  # float32: the weights are their own masters
        return {id(weight): weight for _, weight in _weights(engine)}
    pairs = zip(chain(*wrapper.fp16_groups), chain(*wrapper.fp32_groups), strict=True)
    return {id(weight): master for weight, master in pairs}


def _read(engine: Any, weight: Tensor, key: str) -> Tensor:
    """The whole master, or one of its moments, on the CPU."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    masters = _masters(engine)
    if masters is None:
        whole = safe_get_full_fp32_param(weight) if key == MASTER else safe_get_full_optimizer_state(weight, key)
    else:
        master = masters[id(weight)]
        whole = master if key == MASTER else _adam(engine).state[master][key]
    return whole.detach().to("cpu", copy=True).contiguous()


def _write(engine: Any, weight: Any, key: str, value: Tensor) -> None:
    """`_read`'s value back to where it was; of a master, the weight itself too."""
    import deepspeed
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    masters = _masters(engine)
    with torch.no_grad():
        if masters is not None:
            master = masters[id(weight)]
            (master if key == MASTER else _adam(engine).state[master][key]).copy_(value)
        elif key == MASTER:
            safe_set_full_fp32_param(weight, value.to(weight.device))
        else:
            safe_set_full_optimizer_state(weight, value.to(weight.device), key)
        if key != MASTER:
            return
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
        adam.state[master] = {"step": torch.tensor(float(steps)), **moments}
    if hasattr(wrapper, "_lazy_init_hp_params_optimizer_state"):  # ZeRO stages 1 and 2: which part is whose
        wrapper._lazy_init_hp_params_optimizer_state()


def _save_file(tensors: Mapping[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    save_file(dict(tensors), path)


def _open_file(path: Path) -> Any:
    from safetensors import safe_open

    return safe_open(path, framework="pt")
