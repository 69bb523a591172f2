"""`cohort check` with a tiny model on the real vLLM."""

import os
import signal
from pathlib import Path

import pytest
import ray

from tests.end_to_end.kept import ALIKE, Kept
from tests.end_to_end.runs import cohort, write_config

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(300)]

TASK = {"name": "comparison", "size": 8}


def test_a_model_that_answers_could_learn(tmp_path: Path, model: str) -> None:
    path = write_config(tmp_path / "compare.yaml", model, task=TASK, run={"target_reward": 0.995, "max_steps": 150})
    with cohort("check", path, cwd=tmp_path) as run:
        status, out, err = run.finish()
        assert (status, err) == (0, ""), out + err
        assert run.left_behind() == []
    lines = out.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[-1] == "This run could learn: 8 of 8 groups have signal."
    assert "'Yes'" in out and "'No'" in out
    assert "Recommended: sampling.num_generations" in out
    assert not (tmp_path / "runs").exists()  # nothing was trained


def test_ctrl_c_ends_it_and_leaves_nothing(tmp_path: Path, model: str) -> None:
    path = write_config(tmp_path / "compare.yaml", model, task=TASK, run={"max_steps": 150})
    with cohort("check", path, cwd=tmp_path, PYTHONUNBUFFERED="1") as run:
        assert run.process.stdout is not None
        assert [next(run.process.stdout) for _ in range(2)] == ["reading model and data\n", "starting the engine\n"]
        os.killpg(run.process.pid, signal.SIGINT)
        status, out, err = run.finish(60)
        assert (status, err) == (1, "cohort check: interrupted\n"), out + err
        assert run.left_behind() == []
    assert "This run" not in out


def test_answers_that_are_all_cut_off_could_not(tmp_path: Path, kept: Kept, model: str) -> None:
    """On a cluster, in an actor."""
    # An answer is a word and the end of the turn: two tokens.
    sampling = {"max_completion_length": 1}
    path = write_config(
        tmp_path / "cramped.yaml", model, task=TASK, sampling=sampling, engine=ALIKE, run={"max_steps": 150}
    )
    here = ray.get_runtime_context().gcs_address  # "auto" may find that of another test
    status, out, err = kept.cohort("check", path, cwd=tmp_path, RAY_ADDRESS=here)
    assert (status, err) == (3, ""), out + err
    verdict = " ".join(out[out.index("This run could not learn") :].split())
    assert verdict.startswith("This run could not learn (truncated). No group could learn: 100")
    assert "Raise sampling.max_completion_length to 4" in verdict
