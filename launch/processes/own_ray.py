"""The processes of the Ray that this process has started, as Linux sees them: what is stopped says nothing, and Ray
waits for it."""

from pathlib import Path
from typing import Any

import ray


def lost() -> str | None:
    """What became of a process that Ray cannot do without, if one is dead or stopped."""
    for name in ("gcs_server", "raylet"):
        for process in _started(name):
            if process.poll() is not None:
                return f"process {name} has ended"
            if _is_stopped(process.pid):
                return f"process {name} is stopped"
    return None


def stopped_workers() -> set[int]:
    """Ids of the workers that are stopped now."""
    children = (child for raylet in _started("raylet") for child in _children(raylet.pid))
    return {pid for pid in children if _is_stopped(pid)}


def state(pid: int) -> str:
    """Linux's letter for what a process does; empty where there is no such process, or no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _is_stopped(pid: int) -> bool:
    return state(pid) == "T"


def _started(name: str) -> list[Any]:
    """Those of that name, as `subprocess.Popen`."""
    node: Any = ray._private.worker._global_node
    return [one.process for one in node.all_processes.get(name, ())] if node else []


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
