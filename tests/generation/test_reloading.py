"""Memory of weights that are packed again; what is packed is tested with the engine."""

import resource
import statistics
import subprocess
import sys

import torch

from generation.reloading import _freed_memory_is_reused

BLOCK = 96 << 20
"""Bytes: more than glibc keeps of its own accord."""


def faults_of_a_block() -> int:
    """Page faults of a block that is written once, and freed."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(BLOCK, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_a_block_takes_the_place_of_the_one_before() -> None:
    """In a process of its own, as engines are: after other tests the heap may have no room to grow."""
    subprocess.run([sys.executable, "-c", f"from {__name__} import compare; compare()"], check=True, timeout=120)


def compare() -> None:
    pages = BLOCK // resource.getpagesize()
    faults_of_a_block()
    assert faults_of_a_block() > 0.9 * pages
    with _freed_memory_is_reused():
        # At first, and once in a while, something small comes to lie behind the block, and the next one behind that.
        faults = [faults_of_a_block() for _ in range(25)]
        assert statistics.median(faults[10:]) < 0.1 * pages
