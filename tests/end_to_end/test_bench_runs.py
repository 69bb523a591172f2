"""The benchmarks for real, on a tiny model."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.kept import ALIKE, Kept
from tests.end_to_end.runs import cohort, write_config

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(300)]

SIZES = (4, 16)


def words(what: str, model: str, folder: Path, *options: str) -> list[str]:
    """The command that runs it once, at both sizes unless the options say otherwise."""
    config = write_config(
        folder / "tiny.yaml", model, task={"name": "comparison"}, engine=ALIKE, run={"max_steps": 1}
    )
    sizes = ",".join(map(str, SIZES))
    return [
        "bench",
        what,
        config,
        "--num-generations",
        sizes,
        "--repeats",
        "1",
        "--output",
        f"{folder}/out",
        *options,
    ]


def bench(what: str, model: str, folder: Path) -> dict[str, Any]:
    """Runs it in a process of its own; the JSON that it wrote."""
    with cohort(*words(what, model, folder), cwd=folder, VLLM_LOGGING_LEVEL="ERROR") as run:
        status, out, err = run.finish()
        assert status == 0, out + err
        assert run.left_behind() == []
    return written(what, folder, out)


def written(what: str, folder: Path, out: str) -> dict[str, Any]:
    """The JSON of a benchmark that printed `out`, seen to be whole."""
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
    for one in content["measurements"]:
        assert {"pack", "forward", "backward", "optimizer", "rest"} == one["phases"].keys()
        assert all(seconds > 0 for seconds in one["phases"].values())


def test_step(tmp_path: Path, kept: Kept, model: str) -> None:
    peer = ("--peer", "trl") if find_spec("trl") else ()
    one = ("--num-generations", str(SIZES[0]))
    status, out, err = kept.cohort(*words("step", model, tmp_path, *peer, *one), cwd=tmp_path)
    assert status == 0, out + err
    content = written("step", tmp_path, out)
    ways = ("ours", "plain", "trl") if peer else ("ours", "plain")
    assert sorted(keys(content)) == sorted(key for key in every(*ways) if key[1] == SIZES[0])
    for one in content["measurements"]:
        if one["way"] != "trl":
            assert one["details"]["groups_trained"] == one["prompts"]
            assert {"sample", "score", "pack", "update", "publish", "rest"} == one["phases"].keys()
            assert all(seconds >= 0 for seconds in one["phases"].values())


def test_learn(tmp_path: Path, model: str) -> None:
    task = {"name": "comparison", "size": 4}
    config = write_config(tmp_path / "tiny.yaml", model, task=task, engine=ALIKE, run={"max_steps": 2})
    peer = ("--peer", "trl", "--num-generations", "4") if find_spec("trl") else ()
    options = ("--seconds", "150", "--seeds", "3", "--output", str(tmp_path / "out"), *peer)
    with cohort("bench", "learn", config, *options, cwd=tmp_path) as run:
        status, out, err = run.finish()
        assert status == 0, out + err
        assert run.left_behind() == []
    curves = json.loads((tmp_path / "out" / "bench-learn.json").read_text())["curves"]
    assert [(curve["way"], curve["seed"]) for curve in curves] == [("ours", 3), ("trl", 3)][: len(curves)]
    assert len(curves) == 1 + bool(peer)
    for curve in curves:
        assert curve["seconds"] == sorted(curve["seconds"]) and curve["seconds"][-1] < 155
        assert len(curve["rewards"]) == 2 and all(-1 <= reward <= 1 for reward in curve["rewards"])
