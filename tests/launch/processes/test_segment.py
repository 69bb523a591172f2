"""Shared memory between processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launch.processes.segment import Address, Segment, attach, parts, room

ARRAYS = [np.arange(size, dtype=np.uint8) for size in (1, 0, 64, 200)]
SIZES = [array.nbytes for array in ARRAYS]

OWNER = """
import sys
from launch.processes.segment import Segment
import numpy as np
segment = Segment(4096)
print(repr(segment.address), flush=True)
for line in sys.stdin:
    segment.write([np.full(9, int(line), np.uint8)])
    print("written", flush=True)
"""


@contextmanager
def owner() -> Iterator[tuple[Address, subprocess.Popen[str]]]:
    """Another process with a segment; it writes nine times the number that it is sent."""
    command = [sys.executable, "-c", OWNER]
    root = str(Path(__file__).parents[3])
    with subprocess.Popen(
        command,
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": root},
    ) as process:
        assert process.stdout
        yield eval(process.stdout.readline(), {"Address": Address}), process
        process.kill()


def write(process: Any, number: int) -> None:
    process.stdin.write(f"{number}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "written\n"


def test_another_process_reads_what_is_written_now() -> None:
    with owner() as (address, process):
        write(process, 3)
        segment = attach(address)
        assert segment is not None
        assert segment.nbytes == 4096
        assert segment[:10].tolist() == [3] * 9 + [0]
        write(process, 5)
        assert segment[:9].tolist() == [5] * 9


def test_nobody_else_can_write() -> None:
    segment = Segment(100)
    attached = attach(segment.address)
    assert attached is not None
    with pytest.raises(ValueError, match="read-only"):
        attached[0] = 1


def test_nothing_is_left_of_a_process_that_was_killed() -> None:
    before = set(Path("/dev/shm").iterdir())
    with owner() as (address, process):
        write(process, 3)
        segment = attach(address)
        assert set(Path("/dev/shm").iterdir()) <= before
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert attach(address) is None
    assert segment is not None
    assert segment[0] == 3  # whoever has it mapped still has it


def test_a_file_of_another_machine_is_not_taken_for_it() -> None:
    mine = Segment(100)
    assert attach(replace(mine.address, name="cohort-0123456789abcdef")) is None
    assert attach(replace(mine.address, fd=1_000_000)) is None
    assert attach(mine.address) is not None


def test_arrays_come_back_aligned() -> None:
    segment = Segment(room(SIZES))
    segment.write(ARRAYS)
    attached = attach(segment.address)
    assert attached is not None
    for array, part in zip(ARRAYS, parts(attached, SIZES), strict=True):
        assert part.tolist() == array.tolist()
        assert not part.size or part.ctypes.data % 64 == 0
