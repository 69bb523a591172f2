"""Where nothing is shared the tree costs no more than packed dense training: time and memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROUNDS = range(3, 10)
MORE = 1.3
"""Times the seconds of dense rows: what other programs on the machine may make of an equal cost. Measured:
0.98 to 1.12 alone, up to 1.2 beside others."""


@pytest.mark.timeout(400)
def test_64_random_completions_of_512_tokens_cost_no_more_than_dense_rows() -> None:
    """In a process of its own, whose memory is these passes'. Processor seconds, the least of several rounds: a
    program on the other half of a core makes them more by half, and none makes them less."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.equivalence.test_long_completions"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    cost = json.loads(done.stdout.splitlines()[-1])
    assert cost["tree"]["gradient"] == pytest.approx(cost["dense"]["gradient"], rel=1e-4)
    assert cost["tree"]["seconds"] <= MORE * cost["dense"]["seconds"], cost
    assert cost["tree"]["bytes"] <= cost["dense"]["bytes"], cost


def measure() -> None:
    import time

    import numpy as np
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.equivalence.dense import make_lesson
    from trainer.update.forest import pack
    from trainer.update.policy import Policy, policy_inputs

    torch.set_num_threads(1)
    torch.manual_seed(0)
    vocabulary, length, micro_batch_tokens = 4096, 512, 4096
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
    )
    model = LlamaForCausalLM(config)
    rng = np.random.default_rng(0)
    prompt = rng.integers(0, vocabulary, 32).tolist()
    # First tokens differ, so that no edge is shared and both ways sum the same.
    firsts = rng.choice(vocabulary, 64, replace=False).tolist()
    rows = [[first, *rng.integers(0, vocabulary, length - 1).tolist()] for first in firsts]
    (forests,) = pack([make_lesson(prompt, [(row, 1, 0.0) for row in rows])], 1, micro_batch_tokens).forests

    def tree() -> None:
        policy = Policy(model)
        for forest in forests:
            policy(**policy_inputs(forest, "cpu")).sum().backward()

    def dense() -> None:
        at_once = micro_batch_tokens // (len(prompt) + length)
        for start in range(0, len(rows), at_once):
            ids = torch.tensor([prompt + row for row in rows[start : start + at_once]])
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=length + 1).logits[:, :-1]
            logits.log_softmax(-1).gather(-1, ids[:, -length:, None]).sum().backward()

    cost: dict[str, dict[str, float]] = {}
    for number in range(1, ROUNDS.stop):
        for way in (dense, tree):
            model.zero_grad()
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
            before, start = kibibytes("VmRSS"), time.process_time()
            way()
            measured = {
                "seconds": time.process_time() - start,
                "bytes": 1024 * (kibibytes("VmHWM") - before),
                "gradient": float(sum(p.grad.norm() ** 2 for p in model.parameters() if p.grad is not None) ** 0.5),
            }
            known = cost.setdefault(way.__name__, measured)
            cost[way.__name__] = {name: min(known[name], value) for name, value in measured.items()}
        if number >= ROUNDS.start and cost["tree"]["seconds"] <= MORE * cost["dense"]["seconds"]:
            break
    print(json.dumps(cost))


def kibibytes(field: str) -> int:
    """Of this process's memory: VmRSS now, VmHWM at its peak."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])


if __name__ == "__main__":
    measure()
