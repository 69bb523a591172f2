"""Scoring beside sampling, with real reward functions in processes of their own."""

import gc
import json
import os
import threading
import time
from pathlib import Path

import pytest

from configs.schema import TaskSettings
from generation.groups import Group
from launch.task_scorer import TaskScorer
from rewards.errors import RewardError, RewardLost
from rewards.task import Task, load_task
from tests.fakes import completion


def own(folder: Path, code: str, prompts: int, timeout: float = 30) -> Task:
    (folder / "data.jsonl").write_text(
        "".join(f"{json.dumps({'prompt': f'p{index}'})}\n" for index in range(prompts))
    )
    (folder / "rewards.py").write_text(code)
    settings = TaskSettings(
        dataset=str(folder / "data.jsonl"), reward=(f"{folder / 'rewards.py'}:f",), reward_timeout=timeout
    )
    return load_task(settings, 0, tokenize=lambda messages: (1,))


def groups(task: Task) -> list[Group]:
    return [Group(prompt, (completion(prompt.id, 3), completion("b", 1)), 1.0, 0) for prompt in task.prompts]


COUNTS = (
    "calls = 0\ndef f(completions, **_):\n    global calls\n    calls += 1\n    return [calls] * len(completions)\n"
)


@pytest.mark.parametrize(("workers", "calls"), [(1, [1, 2, 3, 4, 5]), (2, [1, 1, 2, 2, 3])])
def test_groups_go_to_reward_functions_in_turn(tmp_path: Path, workers: int, calls: list[int]) -> None:
    """Each in a process of its own, which keeps what it knows."""
    task = own(tmp_path, COUNTS, prompts=5)
    scorer = TaskScorer(task, workers)
    asked = groups(task)
    for group in asked[:3]:
        scorer.begin(group)
    scored = scorer.score(asked)  # some were begun, and none is scored twice
    assert [one.rewards.tolist() for one in scored] == [[call, call] for call in calls]
    assert all(one.group is group for one, group in zip(scored, asked, strict=True))


def test_slow_rewards_are_given_side_by_side_and_beside_the_owner(tmp_path: Path) -> None:
    task = own(
        tmp_path, "import time\ndef f(completions, **_):\n    time.sleep(1)\n    return [0.5] * len(completions)\n", 6
    )
    scorer = TaskScorer(task, 3)
    scorer.score(groups(task)[:3])  # starts the processes
    asked = groups(task)
    began = time.monotonic()
    for group in asked:
        scorer.begin(group)
    assert time.monotonic() - began < 0.5
    scorer.score(asked)
    assert 2 <= time.monotonic() - began < 4.5  # one after another they take 6 s


def test_a_reward_function_that_fails_is_told_of_the_first_group_it_fails_on(tmp_path: Path) -> None:
    code = """
def f(completions, **_):
    with open(__file__ + ".calls", "a") as file:
        file.write(completions[0] + "\\n")
    if completions[0] == "p1":
        raise ValueError("I do not like it")
    return [0.0] * len(completions)
"""
    task = own(tmp_path, code.replace("p1", own(tmp_path, COUNTS, 5).prompts[1].id), prompts=5)
    scorer = TaskScorer(task, 1)
    asked = groups(task)
    for group in asked:
        scorer.begin(group)
    with pytest.raises(RewardError, match="I do not like it"):
        scorer.score(asked)
    calls = (tmp_path / "rewards.py.calls").read_text().split()
    assert len(calls) == 2, "the others are not tried"
    assert scorer.score(asked[2:3])[0].rewards.tolist() == [0.0, 0.0]


DIES = """
import os, signal, time
def f(completions, **_):
    path = __file__ + ".times"
    left = int(open(path).read())
    open(path, "w").write(str(left - 1))
    if left > 0:
        {how}
    return [0.5] * len(completions)
"""


@pytest.mark.parametrize("how", ["os.kill(os.getpid(), signal.SIGKILL)", "time.sleep(60)"])
def test_a_process_that_is_lost_is_replaced_and_asked_again_once(tmp_path: Path, how: str) -> None:
    task = own(tmp_path, DIES.format(how=how), prompts=3, timeout=1)
    times = tmp_path / "rewards.py.times"
    told: list[str] = []
    times.write_text("1")
    scored = TaskScorer(task, 1, lambda error: told.append(str(error))).score(groups(task))
    assert [one.rewards.tolist() for one in scored] == [[0.5, 0.5]] * 3
    assert len(told) == 1
    assert "signal 9" in told[0] or "did not return within 1 s" in told[0]
    times.write_text("2")
    with pytest.raises(RewardError):
        TaskScorer(task, 1, lambda error: told.append(str(error))).score(groups(task)[:1])
    assert len(told) == 2
    times.write_text("1")
    with pytest.raises(RewardError):
        TaskScorer(task, 1).score(groups(task)[:1])


def test_whoever_is_told_of_a_lost_process_may_end_it(tmp_path: Path) -> None:
    task = own(tmp_path, DIES.format(how="os.abort()"), prompts=1)
    (tmp_path / "rewards.py.times").write_text("1")

    def too_often(error: RewardLost) -> None:
        raise RuntimeError(f"too often: {error}")

    with pytest.raises(RuntimeError, match="too often: reward function"):
        TaskScorer(task, 1, too_often).score(groups(task))


def test_closed_it_leaves_neither_thread_nor_process(tmp_path: Path) -> None:
    """Once nobody knows the task any longer."""

    def threads() -> int:
        return sum(thread.name == "scoring" for thread in threading.enumerate())

    def children() -> set[str]:
        lists = Path(f"/proc/{os.getpid()}/task").glob("*/children")
        return {pid for pids in lists for pid in pids.read_text().split()}

    before, mine = threads(), children()
    task = own(tmp_path, COUNTS, prompts=2)
    scorer = TaskScorer(task, 2)
    scorer.score(groups(task))
    assert threads() == before + 2
    assert len(children() - mine) == 2
    scorer.close()
    del scorer, task
    deadline = time.monotonic() + 20
    while threads() > before or children() - mine:
        assert time.monotonic() < deadline
        gc.collect()
        time.sleep(0.1)
