"""What a run's processes find on the machines of a cluster that they run on, looked at before they start."""

import os
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from configs.errors import ConfigError
from launch.hardware import gpu_bytes
from launch.memory_plan import refuse_shortage, shortages
from launch.prepare import Prepared
from launch.processes.placement import Placement, node_name
from launch.processes.waiting import wait
from trainer.update.model import BUNDLED, ModelError, resolve


def refuse_strangers(prepared: Prepared, placement: Placement, folder: Path | None = None) -> None:
    """Raises ConfigError: a machine that processes may run on has not the model, or one that ranks may run on does
    not share `folder`, which they write checkpoints into and read them from."""
    here = ray.get_runtime_context().get_node_id()
    others, of_ranks = placement.nodes - {here}, placement.rank_nodes - {here}
    config, problems = prepared.config, []
    timeout = config.cluster.start_timeout
    if others and prepared.revision is None:  # the hub's models every process fetches
        found = _on_each(others, model_problem, (prepared.model, config.model.path), "looking for the model", timeout)
        problems += [
            f"model.path: {config.model.path} is {prepared.model} on this machine, and not on {name}: {problem}. Put "
            "it on a path that all machines share, or name a model of the hub, which every machine fetches."
            for name, problem in found.items()
            if problem
        ]
    if of_ranks and folder is not None:
        token = folder.absolute() / f".shared-{secrets.token_hex(8)}"
        token.touch()
        try:
            found = _on_each(of_ranks, shares, (str(token),), "looking for the run's folder", timeout)
        finally:
            token.unlink()
        problems += [
            f"run.directory: {folder.absolute()} is not the same folder on {name}, where a rank is to write "
            "checkpoints. Set it to a path that all machines share and may write to, or lower training.ranks so that "
            "all of them fit on this machine."
            for name, shared in found.items()
            if not shared
        ]
    if problems:
        raise ConfigError(*problems)


def refuse_small_gpus(prepared: Prepared, placement: Placement, trains: bool, tell: Callable[[str], None]) -> None:
    """Raises ConfigError with figures: the memory plan does not fit on the smallest GPU of the machines that
    processes may run on. tell: takes what may not fit, depending on what is in a step."""
    if not placement.gpu:
        return
    timeout = prepared.config.cluster.start_timeout
    sizes = _on_each(placement.nodes, gpu_bytes, (), "asking for the GPUs' memory", timeout).values()
    known = [size for size in sizes if size is not None]
    if known:
        plan = prepared.memory_plan(min(known), trains)
        refuse_shortage(plan, prepared.config)
        for shortage in shortages(plan, prepared.config):
            tell(f"memory may run short: {shortage}")


def model_problem(folder: str, path: str) -> str:
    """Why processes of this machine cannot read the model in `folder`; empty if they can. A bundled model, or a .gguf
    file, is unpacked first where it is not yet. path: `model.path`."""
    if (Path(folder) / "config.json").is_file():
        return ""
    if path not in BUNDLED and not path.endswith(".gguf"):
        return "no such folder"
    try:
        unpacked = resolve(path).name
    except ModelError as error:
        return str(error).rstrip(".")
    return "" if unpacked == folder else f"it is unpacked to {unpacked} there"


def shares(token: str) -> bool:
    """Whether this machine sees the file, and may write beside it."""
    return Path(token).is_file() and os.access(Path(token).parent, os.W_OK)


def _on_each(
    nodes: Iterable[str], function: Callable[..., Any], arguments: tuple[Any, ...], phase: str, timeout: float
) -> dict[str, Any]:
    """What the function returns on each machine, by the machine's name."""
    calls = {
        node_name(node): ray.remote(function)
        .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
        .remote(*arguments)
        for node in sorted(nodes)
    }
    return wait(calls, phase, timeout, "cluster.start_timeout")
