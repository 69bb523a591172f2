"""FlexAttention, compiled, against the chunks that a CPU computes."""

import pytest
import torch

from launch import hardware
from tests.equivalence.dense import make_lesson
from trainer.update import attention
from trainer.update.forest import pack

pytestmark = [pytest.mark.skipif(not hardware.has_gpu(), reason="needs an NVIDIA GPU"), pytest.mark.timeout(600)]


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("heads", [(4, 2), (9, 3)])
def test_flex_attention_on_a_gpu_gives_the_values_and_gradients_of_chunks(
    window: int | None, heads: tuple[int, int]
) -> None:
    for branches in (3, 40, 170):  # another length each: compiled anew, or for any
        rows = [([branch, *range(branch, branch + 30)], 1, 0.0) for branch in range(branches)]
        forest = pack([make_lesson(range(1, 9), rows)], 1, 100_000).forests[0][0]
        tree = torch.tensor(forest.subtree_end), torch.tensor(forest.position_ids)
        query, key, value = (
            torch.randn(1, number, len(forest.token_ids), 64, requires_grad=True)
            for number in (heads[0], *heads[1:] * 2)
        )
        results = []
        for device in ("cpu", "cuda"):
            attend = attention.attend_to(*(field.to(device) for field in tree))
            states = [given.detach().to(device).requires_grad_() for given in (query, key, value)]
            out = attend(states[0], states[1], states[2], 0.125, window)
            out.square().sum().backward()
            results.append([out.detach().cpu(), *(given.grad.cpu() for given in states if given.grad is not None)])
        for ours, theirs in zip(*results, strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-2, atol=1e-2)  # TF32


def test_forests_of_ten_lengths_compile_at_most_twice() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    attention._compiled.cache_clear()
    for nodes in (300, 1, 7, 127, 128, 129, 256, 257, 640, 1000):
        tree = torch.arange(1, nodes + 1, device="cuda"), torch.zeros(nodes, dtype=torch.int64, device="cuda")
        query, key, value = (
            torch.randn(1, heads, nodes, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
            for heads in (4, 2, 2)
        )
        attended = attention.attend_to(*tree)(query, key, value, None, None)
        attended.square().sum().backward()
        assert torch.allclose(attended, value.repeat_interleave(2, dim=1), atol=1e-2)  # each node sees itself alone
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2


def test_attention_over_a_hundred_thousand_nodes_takes_no_table_of_all_pairs() -> None:
    """In bytes that would be 16 GiB."""
    nodes = 1 << 17
    subtree_end = torch.full((nodes,), nodes, device="cuda")
    depth = torch.arange(nodes, device="cuda")
    query, key, value = (
        torch.randn(1, heads, nodes, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for heads in (4, 2, 2)
    )
    torch.cuda.reset_peak_memory_stats()
    attention.attend_to(subtree_end, depth)(query, key, value, None, None).sum().backward()
    assert torch.cuda.max_memory_allocated() < 2 << 30
