"""`cohort train` with a tiny model, on the real Ray, vLLM and DeepSpeed."""

import json
import math
import os
import signal
import time
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch

from configs.derived import derived
from configs.loading import load
from rewards.task import load_task
from tests.end_to_end.kept import ALIKE, Kept
from tests.end_to_end.runs import cohort, processes, rows, write_config
from tests.tiny import load_tiny_model
from trainer.metric import declared
from trainer.metrics import StepMetrics
from trainer.update.model import encoder, load_tokenizer

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(300)]

DOCUMENTED = {
    *("step", "policy_version", "reward_mean", "reward_std", "completions", "distinct_completions"),
    *("groups_learning", "groups_solved", "groups_collapsed", "groups_floor", "tree_tokens", "dense_tokens"),
    *("loss", "grad_norm", "learning_rate"),
    *("seconds_sample", "seconds_score", "seconds_update", "seconds_publish", "seconds_step"),
}


def test_a_tiny_model_learns_to_compare(tmp_path: Path, model: str) -> None:
    num_generations, prompts = 64, 8
    config_path = write_config(
        tmp_path / "compare.yaml",
        model,
        task={"name": "comparison", "size": prompts},
        sampling={"num_generations": num_generations, "prompts_per_step": 4},
        training={"ranks": 2, "zero_stage": 2},
        run={"target_reward": 0.995, "max_steps": 150, "max_seconds": 200},
    )
    with cohort("train", config_path, cwd=tmp_path) as run:
        status, out, err = run.finish()
        assert status == 0, out + err
        assert run.left_behind() == []
    assert "Target reached" in out

    folder = tmp_path / "runs" / "compare"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["reached"] is True
    assert summary["reward_sampled"] >= 0.995
    assert summary["accuracy_greedy"] == 1.0
    assert summary["prompts_solved"] <= summary["prompts"] == prompts
    assert summary["before"]["reward_sampled"] < 0.9
    assert summary["seconds"] > 0
    assert len(summary["table"]) == prompts

    metrics = rows(folder / "metrics.jsonl")
    assert [row["step"] for row in metrics] == list(range(1, summary["steps"] + 1))
    version, norms = 0, list[float]()
    for row in metrics:
        assert row.keys() >= DOCUMENTED
        assert row.keys() == {name for name, _ in declared(StepMetrics)}
        unknown = {name for name, value in row.items() if value is None}
        assert unknown <= {"completion_length_correct", "completion_length_wrong"}  # where none was such
        assert all(math.isfinite(value) for name, value in row.items() if name not in unknown)
        assert row["policy_version"] == version
        assert row["completions"] == 4 * num_generations
        assert 4 <= row["distinct_completions"] <= row["completions"]
        kinds = [row[f"groups_{kind}"] for kind in ("learning", "solved", "collapsed", "floor")]
        assert sum(kinds) == 4
        if row["groups_trained"]:
            version += 1
            assert 0 < row["tree_tokens"] < row["dense_tokens"]
            assert row["grad_norm"] > 0
            steep = 8 * max(1.0, median(norms[:3])) if norms else math.inf
            norm = max(row["grad_norm"], median(norms[-3:]) if norms else 0.0)
            unsolved = max(1, 4 - row["groups_solved"])
            assert row["learning_rate"] == pytest.approx(2e-3 * (unsolved / 4) ** 0.5 * min(1.0, steep / norm))
            norms.append(row["grad_norm"])
            assert row["logprob_gap"] < 1e-4  # engine and ranks hold the same weights
    assert summary["policy_version"] == version > 0
    assert metrics[-1]["reward_mean"] > metrics[0]["reward_mean"]

    groups = rows(folder / "groups.jsonl")
    assert len(groups) == 4 * len(metrics)
    for group in groups:
        shown = sum(completion["count"] for completion in group["completions"])
        assert shown == num_generations if group["distinct"] <= 5 else shown < num_generations
        assert group["kind"] in ("learning", "solved", "collapsed", "floor")

    config = load(folder / "config.yaml")
    assert config == derived(load(config_path), gpus=0)
    assert list((folder / "tensorboard").glob("events.out.tfevents.*"))

    trained: Any = load_tiny_model(folder / "model")
    tokenizer = load_tokenizer(str(folder / "model"))
    task = load_task(config.task, config.seed, encoder(tokenizer))
    for prompt in task.prompts:
        ids = torch.tensor([prompt.token_ids])
        with torch.no_grad():
            said = trained.generate(ids, max_new_tokens=4, do_sample=False)[0, ids.shape[1] :]
        assert tokenizer.decode(said, skip_special_tokens=True) == prompt.columns["answer"]


REWARDS = """
calls = 0


def exact(prompts, completions, answer, **kwargs):
    assert all(isinstance(text, str) for text in prompts + completions)
    assert set(kwargs) >= {"completion_ids", "level"}
    return [2.0 if text.strip() == right else -1.0 for text, right in zip(completions, answer)]


def broken(prompts, completions, **kwargs):
    global calls
    calls += 1
    if calls > 2 * 4:  # both evaluations before training judge four prompts
        raise ZeroDivisionError("no such luck")
    return [float(len(text)) for text in completions]
"""


@pytest.fixture
def own_task(tmp_path: Path) -> dict[str, Any]:
    """A data set and a file of reward functions, as a user has them; relative to the working directory."""
    questions = [
        {
            "prompt": f"Is {number} greater than 50? Answer Yes or No.",
            "answer": "Yes" if number > 50 else "No",
            "level": 1,
        }
        for number in (11, 93, 34, 67)
    ]
    (tmp_path / "mine.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in questions))
    (tmp_path / "rewards.py").write_text(REWARDS)
    return {"dataset": "mine.jsonl", "reward": "rewards.py:exact", "best_reward": 2.0}


def test_a_users_own_data_and_reward_function(
    tmp_path: Path, kept: Kept, model: str, own_task: dict[str, Any]
) -> None:
    config_path = write_config(
        tmp_path / "own.yaml",
        model,
        task=own_task,
        engine=ALIKE,
        run={"target_reward": 2.0, "max_steps": 3},
    )
    status, out, err = kept.cohort("train", config_path, "--training.learning_rate", "1e-9", cwd=tmp_path)
    assert status == 4, out + err
    assert "Target not reached after 3 steps" in out
    assert "All 3 steps (run.max_steps) are done." in out
    assert "Traceback" not in out + err
    folder = tmp_path / "runs" / "own"
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["reached"], summary["steps"], summary["prompts"]) == (False, 3, 4)
    assert summary["table"][0]["question"] == "Is 11 greater than 50? Answer Yes or No."
    given = {
        (completion["text"], completion["reward"])
        for group in rows(folder / "groups.jsonl")
        for completion in group["completions"]
    }
    assert {reward for _, reward in given} == {2.0, -1.0}
    assert len(rows(folder / "metrics.jsonl")) == 3
    assert (folder / "model" / "config.json").exists()


def test_a_reward_function_that_raises_ends_the_run(
    tmp_path: Path, kept: Kept, model: str, own_task: dict[str, Any]
) -> None:
    config_path = write_config(
        tmp_path / "broken.yaml",
        model,
        task=own_task | {"reward": "rewards.py:broken", "best_reward": 1000.0},
        engine=ALIKE,
        run={"max_steps": 3},
    )
    status, out, err = kept.cohort("train", config_path, cwd=tmp_path)
    assert status == 1, out + err
    assert "reward function rewards.py:broken" in err
    assert "ZeroDivisionError" in err and "no such luck" in err
    assert "Correct the function" in err
    folder = tmp_path / "runs" / "broken"
    assert (folder / "config.yaml").exists()
    assert not (folder / "metrics.jsonl").exists()


def test_ctrl_c_leaves_a_usable_folder_and_no_process(tmp_path: Path, model: str, own_task: dict[str, Any]) -> None:
    """Not even the reward function's."""
    config_path = write_config(
        tmp_path / "long.yaml",
        model,
        task=own_task,
        training={"learning_rate": 1e-9},
        signal={"stop_without_signal": False},
        run={"max_seconds": 200},
    )
    folder = tmp_path / "runs" / "long"
    with cohort("train", config_path, cwd=tmp_path) as run:
        deadline = time.monotonic() + 200
        while not (folder / "metrics.jsonl").exists() and time.monotonic() < deadline:
            assert run.process.poll() is None, "\n".join(map(str, run.finish()))
            time.sleep(0.1)
        walled = [pid for pid, command in processes(run.mark).items() if "rewards.guard" in command]
        assert len(walled) == 2  # the guard, and the process that runs the function
        for pid in walled:
            os.kill(
                pid, signal.SIGTERM
            )  # as schedulers send it to every process of a job: no reason to end for these
        os.killpg(run.process.pid, signal.SIGINT)  # a terminal sends it to the whole process group
        status, out, err = run.finish(60)
        assert status == 5, out + err
        assert run.left_behind() == []
    assert f"Go on with: cohort train --resume {folder}" in out
    assert "Traceback" not in out + err
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["stopped"] == "Interrupted."
    assert summary["steps"] == len(rows(folder / "metrics.jsonl")) >= 1
    assert load_tiny_model(folder / "model").num_parameters() > 0
