"""The benchmarks for real, on a tiny model, each in a process of its own."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.runs import cohort, write_config
from tests.tiny import make_tiny_model

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(300)]

SIZES = (4, 16)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_tiny_model(tmp_path_factory.mktemp("model"), taught=True)


def bench(what: str, model: str, folder: Path, *options: str) -> dict[str, Any]:
    """Runs it at both sizes, once; the JSON that it wrote."""
    config = write_config(folder / "tiny.yaml", model, task={"name": "comparison"}, run={"max_steps": 1})
    sizes = ",".join(map(str, SIZES))
    words = ["bench", what, config, "--num-generations", sizes, "--repeats", "1", "--output", str(folder / "out")]
    with cohort(*words, *options, cwd=folder, VLLM_LOGGING_LEVEL="ERROR") as run:
        status, out, err = run.finish()
        assert status == 0, out + err
        assert run.left_behind() == []
    assert "÷ ours" in out and "samples/s" in out
    assert (folder / "out" / f"bench-{what}.png").read_bytes().startswith(b"\x89PNG")
    content: dict[str, Any] = json.loads((folder / "out" / f"bench-{what}.json").read_text())
    for one in content["measurements"]:
        assert one["seconds"] > 0 and one["peak_mib"] > 50
        assert one["samples"] == one["prompts"] * one["num_generations"] >= one["distinct_completions"] > 0
        assert one["tokens"] >= one["distinct_tokens"] > 0
        if one["phases"]:
            assert sum(one["phases"].values()) == pytest.approx(one["seconds"], rel=0.05)
    return content


def keys(content: dict[str, Any]) -> list[tuple[str, int, str]]:
    return [(one["policy"], one["num_generations"], one["way"]) for one in content["measurements"]]


def every(*ways: str) -> list[tuple[str, int, str]]:
    return [(policy, size, way) for policy in ("untrained", "sharp") for size in SIZES for way in ways]


def test_generation(tmp_path: Path, model: str) -> None:
    content = bench("generation", model, tmp_path)
    assert keys(content) == every("ours", "plain")


def test_update_does_the_same_work_both_ways(tmp_path: Path, model: str) -> None:
    content = bench("update", model, tmp_path)
    assert keys(content) == every("ours", "plain")
    ours, plain = content["measurements"][::2], content["measurements"][1::2]
    for tree, rows in zip(ours, plain, strict=True):
        assert rows["details"]["grad_norm"] == pytest.approx(tree["details"]["grad_norm"], rel=1e-3, abs=1e-6)
        assert rows["tokens"] == tree["tokens"]
    assert any(one["details"]["grad_norm"] > 0.1 for one in ours)


def test_step(tmp_path: Path, model: str) -> None:
    peer = ("--peer", "trl") if find_spec("trl") else ()
    content = bench("step", model, tmp_path, *peer)
    ways = ("ours", "plain", "trl") if peer else ("ours", "plain")
    assert sorted(keys(content)) == sorted(every(*ways))
    for one in content["measurements"]:
        if one["way"] != "trl":
            assert one["details"]["groups_trained"] == one["prompts"]
            assert {"sample", "score", "pack", "update", "publish", "rest"} == one["phases"].keys()
            assert all(seconds >= 0 for seconds in one["phases"].values())
