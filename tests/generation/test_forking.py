"""The parts of sampling and of weight sync that need no engine."""

import os
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import vllm
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.schema import VLLM_OWN, EngineSettings, SamplingSettings
from generation.buckets import pack, unpack
from generation.checksum import MODULUS, checksum
from generation.drawing import Truncation
from generation.engine import Engine, EngineSpec, distinct, seed_of
from generation.forking import Branch, Split
from generation.groups import Completion
from generation.handover import SHARE, PartialBlockHandover, most_copies

# Branches


def branch(**changes: Any) -> Branch:
    fields: dict[str, Any] = {
        "index": 3,
        "temperature": 1.0,
        "key": 7,
        "truncation": Truncation(),
        "count": 100,
        "prompt_length": 5,
        "token_ids": [8],
        "logprobs": [-0.5],
        "inherited": None,
    }
    return Branch(**fields | changes)


def split(some: Branch) -> None:
    """60 samples go on with token 1, 30 with 0, 10 with 4."""
    some.go_on(1, -0.1)
    others = np.array([0, 4]), np.array([30, 10]), np.array([-1.0, -2.0], np.float32)
    some.split = Split(len(some.generated), *others, 60, None)


def test_a_branch_splits_its_count() -> None:
    parent = branch()
    split(parent)
    parent.generated.append(1)
    children = parent.children()
    assert [(child.token_ids, child.count, child.logprobs) for child in children] == [
        ([8, 0], 30, [-0.5, -1.0]),
        ([8, 4], 10, [-0.5, -2.0]),
    ]
    assert (parent.finished(), parent.count, parent.logprobs) == ([8, 1], 60, [-0.5, -0.1])
    assert {child.index for child in children} == {3}
    assert len({parent.key, *(child.key for child in children)}) == 3


def test_a_repeated_draw_takes_the_place_of_the_first() -> None:
    some = branch()
    some.go_on(2, -0.3)
    some.go_on(1, -0.1)
    some.generated.append(1)
    assert (some.finished(), some.logprobs) == ([8, 1], [-0.5, -0.1])


@pytest.mark.parametrize("followed", [[2], [], [1, 1]])
def test_vllm_following_another_token_is_an_error(followed: list[int]) -> None:
    some = branch()
    split(some)
    some.generated = followed
    with pytest.raises(RuntimeError, match=r"vLLM generated .* where \[1\] was drawn\. Set engine\.fork to off"):
        some.finished()


# Merging


def completion(tokens: Sequence[int], count: int, finish: Any = "stop") -> Completion:
    return Completion(np.array(tokens, np.int32), str(tokens), np.zeros(len(tokens), np.float32), finish, count)


def test_equal_completions_are_merged_most_frequent_first() -> None:
    merged = distinct(
        [
            completion([5], 2),
            completion([1, 2], 3),
            completion([5], 4),
            completion([5], 1, "length"),
            completion([1], 1),
            completion([0], 3),
        ]
    )
    assert [(c.token_ids.tolist(), c.finish_reason, c.count) for c in merged] == [
        ([5], "stop", 6),
        ([0], "stop", 3),
        ([1, 2], "stop", 3),
        ([1], "stop", 1),
        ([5], "length", 1),
    ]
    assert distinct([]) == ()


def test_seeds_are_63_bits_and_differ_with_every_part() -> None:
    seeds = {seed_of(0, step, name) for step in range(50) for name in ("a", "b", "1")}
    assert len(seeds) == 150
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of(0, "x") == seed_of(0, "x")


# Copies of partial blocks


def test_copies_are_as_many_as_their_share_of_the_cache_holds() -> None:
    """70 blocks are 7/8 of the memory: 10 copies fit into the other eighth, and one that nobody holds makes room."""
    connector = object.__new__(PartialBlockHandover)
    connector._block_size, connector._blocks, connector._caches = 4, {1: [3]}, [torch.ones(5, 2)]
    connector._copies, connector._most_copies = weakref.WeakSet(), most_copies(70)
    held = [connector.copy(1, 2) for _ in range(12)]
    assert [copy is not None for copy in held] == [True] * 10 + [False] * 2
    held.pop(0)
    assert connector.copy(1, 2) is not None


# What vLLM is given


@pytest.mark.parametrize(("gpu", "forks"), [(False, True), (False, False), (True, True)])
def test_what_an_engine_gives_vllm_is_what_settings_may_not(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, forks: bool
) -> None:
    given: dict[str, Any] = {}

    def llm(**arguments: Any) -> None:
        given.update(arguments)
        raise InterruptedError

    monkeypatch.setattr(vllm, "LLM", llm)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    settings = EngineSettings(
        engines=1,
        gpu_memory_utilization=0.5,
        enforce_eager=True,
        fork="auto" if forks else "off",
        vllm={"max_num_seqs": 3},
    )
    spec = EngineSpec("m", None, "float32", False, 64, "ipc", gpu, False, settings, SamplingSettings())
    with pytest.raises(InterruptedError):
        Engine(spec)
    assert given.pop("max_num_seqs") == 3
    assert set(given) == set(VLLM_OWN)
    assert (given["kv_transfer_config"] is not None) == (forks and not gpu)  # a GPU computes the block again
    assert (spec.environment().get("VLLM_USE_V2_MODEL_RUNNER") == "0") == forks
    bytes_of_cache = given["kv_cache_memory_bytes"]
    assert bytes_of_cache is None if gpu else bytes_of_cache == (1 << 30) * (1 - SHARE if forks else 1)


# Buckets and checksums

Weights = list[tuple[str, torch.Tensor]]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]


@st.composite
def weights(draw: st.DrawFn) -> Weights:
    """Tensors of any dtype with odd sizes, some without dimensions, some not contiguous."""
    found = []
    for index in range(draw(st.integers(0, 5))):
        shape = draw(st.lists(st.integers(1, 5), max_size=3))
        generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
        tensor = torch.randint(0, 100, shape, generator=generator).to(draw(st.sampled_from(DTYPES)))
        found.append((f"layer.{index}", tensor.mT if tensor.dim() > 1 and draw(st.booleans()) else tensor))
    return found


@settings(max_examples=150, derandomize=True)
@given(some=weights(), bucket_bytes=st.sampled_from([1, 10, 64, 100, 10_000]))
def test_weights_come_out_of_buckets_as_they_went_in(some: Weights, bucket_bytes: int) -> None:
    buckets = list(pack(some, bucket_bytes))
    for array in (array for data, _ in buckets for array in data):
        array.flags.writeable = False  # as Ray's object store gives it
    out = [weight for data, layout in buckets for weight in unpack(data, layout)]
    assert [name for name, _ in out] == [name for name, _ in some]
    for (_, left), (_, right) in zip(out, some, strict=True):
        assert left.dtype == right.dtype
        assert torch.equal(left, right)
    for _, layout in buckets:
        sizes = [dict(some)[name].nbytes for name, _, _ in layout]
        assert len(sizes) == 1 or sum(sizes) <= bucket_bytes
    assert checksum(out) == checksum(some)


@settings(max_examples=150, derandomize=True)
@given(some=weights(), data=st.data())
def test_a_checksum_sees_names_and_values_and_not_the_order(some: Weights, data: st.DataObject) -> None:
    whole = checksum(some)
    assert 0 <= whole < MODULUS
    assert checksum(data.draw(st.permutations(some))) == whole
    assert sum(checksum([one]) for one in some) % MODULUS == whole
    if not some:
        return
    index = data.draw(st.integers(0, len(some) - 1))
    name, weight = some[index]
    assert checksum([*some[:index], *some[index + 1 :]]) != whole  # also a weight of zeros
    assert checksum([*some[:index], (name + "x", weight), *some[index + 1 :]]) != whole
    other = weight.clone(memory_format=torch.contiguous_format)
    at = data.draw(st.integers(0, weight.numel() - 1))
    other.view(-1)[at] = ~other.view(-1)[at] if weight.dtype == torch.bool else other.view(-1)[at] + 1
    assert checksum([*some[:index], (name, other), *some[index + 1 :]]) != whole


def test_a_checksum_reads_slices_that_are_not_aligned() -> None:
    whole = torch.arange(40, dtype=torch.uint8)
    for start in range(9):
        part = whole[start : start + 16]
        assert checksum([("w", part)]) == checksum([("w", part.clone())])


def test_exchanged_weights_change_the_checksum() -> None:
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    assert checksum([("a", a), ("b", b)]) != checksum([("a", b), ("b", a)])


def test_replacing_a_completion_leaves_the_merged_one_alone() -> None:
    some = completion([1], 2)
    merged = distinct([some, replace(some, count=5)])
    assert [c.count for c in merged] == [7]
    assert some.count == 2
