"""What a GPU is to prove, in one JSON file: `make gpu-proof`.

Figures first, on a model of Qwen3-0.6B's shape with random weights, which says nothing twice: the worst case for
everything that is shared. Then the demo, to its reward of 1.0. Then tests: trees against chunks in FlexAttention,
forked samples against the model's distribution and vLLM's own, three whole runs over IPC. (`pytest tests/gpu` has
more, one of them with a compiled engine, and takes longer.)
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from launch.bench.measure import machine, versions

ROOT = Path(__file__).parents[2]

EAGER = ["--engine.enforce_eager", "true"]
"""A compiled engine takes minutes to start where nothing was compiled before. The first benchmark has one."""

BENCHES: Mapping[str, Sequence[str]] = {
    "generation": ["--num-generations", "16,64,256", "--prompts", "4"],
    "update": [*EAGER, "--num-generations", "64,256", "--prompts", "1", "--training.micro_batch_tokens", "16384"],
    "step": [*EAGER, "--num-generations", "64", "--prompts", "4"],
}

TESTS: Mapping[str, Sequence[str]] = {
    "attention": ["tests/gpu/test_attention.py"],
    "sampling and weight sync": ["tests/generation/test_engine.py", "-k", "not another_engine"],
    "runs to the target": ["tests/gpu/test_train.py", "-m", "end_to_end", "-k", "float32 or sleep or lora"],
}


def main(output: Path, minutes: float) -> int:
    """Runs it all, as far as the time goes; the exit status says whether all of it came out well."""
    output.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 60 * minutes
    proof: dict[str, Any] = {"machine": machine(), "versions": versions(), "benches": {}, "run": {}, "tests": {}}
    model = output / "model"
    _qwen3(model)
    for name, arguments in BENCHES.items():
        words = ["configs/bench/story.yaml", "--model.path", str(model), *arguments]
        words += ["--repeats", "2", "--policies", "untrained", "--output", str(output)]
        done = _run("-m", "launch", "bench", name, *words, until=until)
        found = output / f"bench-{name}.json"
        proof["benches"][name] = done | {
            "medians": json.loads(found.read_text())["medians"] if found.exists() else []
        }
        _save(output, proof)
    proof["run"] = _demo(output, until)
    _save(output, proof)
    for name, arguments in TESTS.items():
        proof["tests"][name] = _run("-m", "pytest", "-q", "--tb=short", *arguments, until=until)
        _save(output, proof)
    parts = [*proof["benches"].values(), proof["run"], *proof["tests"].values()]
    return int(any(part["status"] for part in parts))


def _demo(output: Path, until: float) -> dict[str, Any]:
    """The run of `make demo`, without compiling its engine; its steps, seconds, reward, and the median share of a
    step outside sampling and update."""
    words = [*EAGER, "--run.directory", str(output), "--run.name", "demo"]
    done = _run("-m", "launch", "train", "configs/comparison.yaml", *words, until=until)
    folder = output / "demo"
    if done["status"]:
        return done
    summary = json.loads((folder / "summary.json").read_text())
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    outside = [1 - (step["seconds_sample"] + step["seconds_update"]) / step["seconds_step"] for step in steps]
    return done | {
        "steps": len(steps),
        "run_seconds": summary["seconds"],
        "reward_sampled": summary["reward_sampled"],
        "step_seconds": median(step["seconds_step"] for step in steps),
        "publish_seconds": median(step["seconds_publish"] for step in steps),
        "share_outside": median(outside),
    }


def _run(*words: str, until: float) -> dict[str, Any]:
    """Status, seconds and the last lines of a Python process; status 124 if it ran out of time."""
    start, left = time.monotonic(), max(1.0, until - time.monotonic())
    print("==>", *words, flush=True)
    try:
        done = subprocess.run(
            [sys.executable, *words],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=left,
            check=False,
        )
        status, said = done.returncode, done.stdout
    except subprocess.TimeoutExpired as error:
        status, said = 124, (error.stdout or b"").decode(errors="replace")
    print(said[-6000:], flush=True)
    return {"status": status, "seconds": round(time.monotonic() - start, 1), "output": said[-4000:]}


def _save(output: Path, proof: Mapping[str, Any]) -> None:
    (output / "gpu-proof.json").write_text(json.dumps(proof, indent=1), encoding="utf-8")


def _qwen3(folder: Path) -> None:
    """Writes a model of Qwen3-0.6B's shape (arXiv 2505.09388, table 1) with random weights."""
    import torch
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    from tests.tiny import tiny_tokenizer

    tokenizer = tiny_tokenizer()
    config = Qwen3Config(
        vocab_size=151_936,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40_960,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    with torch.device("cuda"):
        model: Any = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/gpu-proof"), float((sys.argv[2:] or ["8"])[0])))
