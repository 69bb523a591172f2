"""How many threads torch gets in the process of an engine and of a rank, where Ray wants one.

Torch counts its threads once, on import: so the processes are played in fresh ones, with an engine and a rank that
only import torch.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launch.processes.threads import use_threads

START = """
import sys
from types import SimpleNamespace as Some
from launch.processes import actors
from launch.bench import plain_processes

assert "torch" not in sys.modules

class Host:
    def __init__(self, spec):
        import torch

        print(torch.get_num_threads())

actors.Engine = actors.Rank = Host
actors.beat_forever = lambda: None  # there is no Ray to tell
settings = Some(threads={threads}, engines={processes}, ranks={processes})
"""

ENGINE = "actors.EngineProcess(Some(engine=settings))"

RANK = """
spec = Some(training=settings, rank=0)
actors.RankProcess().start(spec, None)
"""


def threads(start: str, configured: int | None, processes: int) -> int:
    """That torch has in such a process."""
    root = str(Path(__file__).parents[3])
    script = START.format(threads=configured, processes=processes) + start
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}  # as Ray sets it
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


CORES = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("start", "configured", "processes", "expected"),
    [
        pytest.param(ENGINE, None, 1, CORES, id="an engine with all cores"),
        pytest.param(ENGINE, 2, 5, 2, id="an engine with two threads"),
        pytest.param(RANK, None, 1, CORES, id="a rank with all cores"),
        pytest.param(RANK, 2, 5, 2, id="a rank with two threads"),
    ],
)
@pytest.mark.skipif(CORES < 2, reason="one core is one thread, whoever counts")
def test_torch_has_the_threads_that_it_should(
    start: str, configured: int | None, processes: int, expected: int
) -> None:
    assert threads(start, configured, processes) == expected


@pytest.mark.parametrize(
    ("configured", "processes", "expected"),
    [(None, 1, "8"), (None, 3, "2"), (None, 9, "1"), (1, 1, "1"), (5, 3, "5")],
)
def test_shares_of_eight_cores(
    monkeypatch: pytest.MonkeyPatch, configured: int | None, processes: int, expected: str
) -> None:
    def cores(pid: int) -> Any:
        return range(8)

    monkeypatch.setattr(os, "sched_getaffinity", cores)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    use_threads(configured, processes)
    assert os.environ["OMP_NUM_THREADS"] == expected
