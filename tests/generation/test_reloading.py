"""Memory of weights that are packed again; what is packed is tested with the engine."""

import resource

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
    pages = BLOCK // resource.getpagesize()
    faults_of_a_block()
    assert faults_of_a_block() > 0.9 * pages
    with _freed_memory_is_reused():
        faults_of_a_block()
        assert faults_of_a_block() < 0.1 * pages
