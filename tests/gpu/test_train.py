"""A whole run on a GPU, engine and rank sharing it: `pytest tests/gpu`. Skipped where there is none."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from launch.hardware import has_gpu
from tests.tiny import make_tiny_model

pytestmark = [
    pytest.mark.skipif(not has_gpu(), reason="needs an NVIDIA GPU"),
    pytest.mark.end_to_end,
    pytest.mark.timeout(600),
]


EAGER = ["--engine.enforce_eager", "true"]

GAPS = {"float32": 1e-3, "bfloat16": 0.1}
"""Largest logprob_gap of a step. A publish that did not arrive shows as engines and trainer drifting apart."""


@pytest.mark.parametrize(
    ("dtype", "more"),
    [
        ("float32", EAGER),
        ("bfloat16", []),
        ("bfloat16", [*EAGER, "--engine.sleep", "true"]),
        ("bfloat16", [*EAGER, "--sampling.ahead", "1"]),
        ("bfloat16", [*EAGER, "--training.offload", "optimizer"]),
        ("bfloat16", [*EAGER, "--training.offload", "parameters", "--training.zero_stage", "3"]),
        ("bfloat16", [*EAGER, "--engine.vllm", "{quantization: fp8}"]),
        ("bfloat16", [*EAGER, "--training.lora_rank", "16", "--training.learning_rate", "6e-3"]),
    ],
    ids=["float32", "compiled", "sleep", "ahead", "offload optimizer", "offload parameters", "fp8", "lora"],
)
def test_a_run_over_ipc_reaches_the_target(tmp_path: Path, dtype: str, more: list[str]) -> None:
    model = make_tiny_model(tmp_path / "model", taught=True)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: {{path: {model}, dtype: {dtype}}}\n"
        "task: {name: comparison, size: 4}\n"
        "sampling: {num_generations: 64, prompts_per_step: 4, max_completion_length: 4}\n"
        "training: {learning_rate: 3e-3}\n"
        f"run: {{directory: {tmp_path / 'runs'}, target_reward: 0.995, max_steps: 60}}\n"
    )
    command = [sys.executable, "-m", "launch", "train", str(recipe), *more]
    run = subprocess.run(command, capture_output=True, text=True, timeout=580, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    folder = tmp_path / "runs" / "recipe"
    assert json.loads((folder / "summary.json").read_text())["reached"] is True
    gaps = [json.loads(line)["logprob_gap"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert max(gaps) < GAPS[dtype] or "--sampling.ahead" in more  # which puts an update in between
