import json
import pickle
from collections.abc import Sequence
from math import isnan
from pathlib import Path

import pytest

from configs.schema import TaskSettings
from rewards.errors import RewardError, TaskError
from rewards.judges import FunctionJudge
from rewards.prompts import Message
from rewards.task import TASKS, Task, load_task, tasks


def tokenize(messages: Sequence[Message]) -> list[int]:
    return [len(message["content"]) for message in messages]


def own(folder: Path, rows: list[dict[str, object]], source: str, **settings: object) -> Task:
    (folder / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "r.py").write_text(source)
    given = {"dataset": f"{folder}/d.jsonl", "reward": f"{folder}/r.py:f"} | settings
    return load_task(TaskSettings.model_validate(given), 0, tokenize)


def close(task: Task) -> None:
    assert isinstance(task.judge, FunctionJudge)
    for function in task.judge.functions:
        function.close()


def test_the_built_in_task() -> None:
    task = load_task(TaskSettings(name="comparison", size=16), 0, tokenize)
    assert len(task.prompts) == len({prompt.id for prompt in task.prompts}) == 16
    assert [prompt.columns["answer"] for prompt in task.prompts].count("Yes") == 8
    assert task.best_reward == 1.0
    prompt = task.prompts[0]
    assert prompt.text is None and prompt.messages[-1]["role"] == "user"
    assert prompt.token_ids == (len(prompt.messages[-1]["content"]),)


def test_examples_are_earlier_turns_and_no_questions() -> None:
    task = load_task(TaskSettings(name="comparison", size=200, few_shot=3, system_prompt="Be short."), 0, tokenize)
    plain = load_task(TaskSettings(name="comparison", size=200), 0, tokenize)
    questions = {prompt.messages[-1]["content"] for prompt in task.prompts}
    assert [prompt.id for prompt in task.prompts] == [prompt.id for prompt in plain.prompts]
    for prompt in task.prompts:
        roles = [message["role"] for message in prompt.messages]
        assert roles == ["system", *["user", "assistant"] * 3, "user"]
        for question, answer in zip(prompt.messages[1:-1:2], prompt.messages[2:-1:2], strict=True):
            left, right = (int(word) for word in question["content"].replace("?", "").split() if word.isdigit())
            assert answer["content"] == ("Yes" if left > right else "No")
            assert question["content"] not in questions


@pytest.mark.parametrize(("own_seed", "seed", "same"), [(None, 1, True), (1, 5, True), (None, 5, False)])
def test_the_task_seed_wins_over_the_run_seed(own_seed: int | None, seed: int, same: bool) -> None:
    reference = load_task(TaskSettings(name="comparison"), 1, tokenize)
    assert (load_task(TaskSettings(name="comparison", seed=own_seed), seed, tokenize) == reference) is same


def test_a_task_larger_than_it_can_be_is_refused_with_the_maximum() -> None:
    with pytest.raises(TaskError, match=r"task.size: 9999 is more than comparison has: 7920 .*task.split train"):
        load_task(TaskSettings(name="comparison", size=9999, few_shot=2), 0, tokenize)
    assert len(load_task(TaskSettings(name="comparison", size=7920, few_shot=2), 0, tokenize).prompts) == 7920


def test_held_out_prompts_of_a_built_in_task_are_others() -> None:
    settings = TaskSettings(name="comparison", size=64, few_shot=2, eval_split="test")
    task = load_task(settings, 0, tokenize, held_out=32)
    assert len(task.held_out) == 32 and len(task.prompts) == 64
    assert not {prompt.id for prompt in task.prompts} & {prompt.id for prompt in task.held_out}
    assert task.prompts == load_task(TaskSettings(name="comparison", size=64, few_shot=2), 0, tokenize).prompts
    assert load_task(settings, 0, tokenize).held_out == ()
    with pytest.raises(TaskError, match=r"task\.eval_split: test: binary has only 8 questions"):
        load_task(TaskSettings(name="binary", difficulty="easy", eval_split="test", size=1), 0, tokenize, held_out=1)


def test_held_out_prompts_of_one_s_own(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"prompt": f"q{index}", "answer": "1"} for index in range(3)]
    (tmp_path / "e.jsonl").write_text('{"prompt": "other", "answer": "2"}\n{"prompt": "another", "answer": "3"}')
    source = "def f(completions, answer): return [0.0]"
    task = own(tmp_path, rows, source, eval_dataset=f"{tmp_path}/e.jsonl")
    assert task.held_out == ()  # none are asked for
    close(task)
    given = {"dataset": f"{tmp_path}/d.jsonl", "reward": f"{tmp_path}/r.py:f", "eval_dataset": f"{tmp_path}/e.jsonl"}
    task = load_task(TaskSettings.model_validate(given), 0, tokenize, held_out=1)
    assert [(prompt.text, prompt.columns) for prompt in task.held_out] == [("other", {"answer": "2"})]
    close(task)
    (tmp_path / "e.jsonl").write_text('{"prompt": "other", "anwser": "2"}')
    with pytest.raises(TaskError, match="`answer`, which is not a column of the held-out prompts; they have anwser"):
        load_task(TaskSettings.model_validate(given), 0, tokenize, held_out=1)
    (tmp_path / "e.jsonl").write_text("{")
    with pytest.raises(TaskError, match=r"task\.eval_dataset: .*e\.jsonl: line 1 is not JSON"):
        load_task(TaskSettings.model_validate(given), 0, tokenize, held_out=1)
    with pytest.raises(TaskError, match=r"task\.eval_split: test is not allowed: .*d\.jsonl is a single file"):
        load_task(
            TaskSettings.model_validate({**given, "eval_dataset": None, "eval_split": "test"}),
            0,
            tokenize,
            held_out=1,
        )


def test_the_sum_of_several_functions_by_weight_is_the_reward(tmp_path: Path) -> None:
    source = """
def right(completions, answer, **kwargs): return [float(a == b) for a, b in zip(completions, answer)]
def brief(completions, **kwargs): return [None if "?" in text else -len(text) for text in completions]
"""
    file = f"{tmp_path}/r.py"
    rows: list[dict[str, object]] = [{"prompt": "q", "answer": "42"}]
    task = own(tmp_path, rows, source, reward=[f"{file}:right", f"{file}:brief 0.25"])
    assert task.reward_names == ("right", "brief")
    right, wrong, unsaid = task.score(task.prompts[0], ["42", "7", "?"], [False] * 3, [[1]] * 3)
    assert (right.reward, right.parts) == (0.5, (1.0, -2.0))
    assert (wrong.reward, wrong.parts) == (-0.25, (0.0, -1.0))
    assert unsaid.reward == 0.0 and unsaid.parts[0] == 0.0 and isnan(unsaid.parts[1])
    close(task)
    alone = own(tmp_path, rows, source, reward=f"{file}:brief")
    assert alone.reward_names == () and alone.score(alone.prompts[0], ["42"], [False], [[1]])[0].parts == ()
    with pytest.raises(RewardError, match=r"returned None for prompt d-0 with completion '[?]', and no other one"):
        alone.score(alone.prompts[0], ["?"], [False], [[1]])
    close(alone)


def test_an_unknown_task_is_refused_naming_the_nearest_and_all() -> None:
    with pytest.raises(TaskError) as refused:
        load_task(TaskSettings(name="comparisons"), 0, tokenize)
    message = str(refused.value)
    assert "there is no built-in task comparisons. Did you mean comparison?" in message
    assert f"There are {', '.join(sorted(TASKS))}, and reasoning_gym:NAME" in message
    assert "for a task of your own set task.dataset" in message


def test_the_listing_has_every_task_with_an_example() -> None:
    assert [task.name for task in tasks()] == sorted(TASKS)
    assert all(task.summary and task.example.text and task.example.answer for task in tasks())
    assert all(set(task.ranges) == {"easy", "medium", "hard"} for task in tasks())


def test_each_distinct_text_is_judged_once(tmp_path: Path) -> None:
    source = """
def f(completions, completion_ids, **kwargs):
    assert list(zip(completions, completion_ids)) == [("a", [1]), ("b", [2]), ("a", [4])], completion_ids
    return [0.25, 1, 0.25]
"""
    task = own(tmp_path, [{"prompt": "p"}], source)
    verdicts = task.score(task.prompts[0], ["a", "b", "a", "a"], [False, True, False, True], [[1], [2], [3], [4]])
    assert [(verdict.reward, verdict.outcome) for verdict in verdicts] == [
        (0.25, "wrong"),
        (1.0, "correct"),
        (0.25, "wrong"),
        (0.25, "truncated"),
    ]
    close(task)


def test_the_best_reward_decides_what_is_correct(tmp_path: Path) -> None:
    task = own(tmp_path, [{"prompt": "p"}], "def f(**kwargs): return [2.0, 1.9, 2.0 - 1e-12]", best_reward=2.0)
    assert task.best_reward == 2.0
    outcomes = [
        verdict.outcome for verdict in task.score(task.prompts[0], ["a", "b", "c"], [False] * 3, [[1], [2], [3]])
    ]
    assert outcomes == ["correct", "wrong", "correct"]  # 2 but for rounding
    close(task)


def test_text_becomes_a_user_turn_and_messages_stay(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "mine"}, {"role": "user", "content": "b"}]
    rows: list[dict[str, object]] = [{"prompt": "a", "x": 1}, {"prompt": chat, "x": 2}]
    task = own(tmp_path, rows, "def f(completions, x): return x", system_prompt="yours")
    text, messages = task.prompts
    assert (text.text, messages.text) == ("a", None)
    assert text.messages == ({"role": "system", "content": "yours"}, {"role": "user", "content": "a"})
    assert messages.messages == tuple(chat)
    assert text.token_ids == (5, 1)
    assert [verdict.reward for verdict in task.score(messages, ["c"], [False], [[1]])] == [2.0]
    close(task)


def test_a_task_can_be_sent_to_another_process(tmp_path: Path) -> None:
    task = pickle.loads(pickle.dumps(own(tmp_path, [{"prompt": "p"}], "def f(**kwargs): return [1.0]")))
    assert task.score(task.prompts[0], ["a"], [False], [[1]])[0].outcome == "correct"
    close(task)
    builtin = load_task(TaskSettings(name="comparison"), 0, tokenize)
    assert pickle.loads(pickle.dumps(builtin)) == builtin


def test_the_timeout_is_the_configured_one(tmp_path: Path) -> None:
    task = own(tmp_path, [{"prompt": "p"}], "import time\ndef f(**kwargs): time.sleep(60)", reward_timeout=0.2)
    with pytest.raises(RewardError, match=r"within 0.2 s"):
        task.score(task.prompts[0], ["a"], [False], [[1]])


def test_a_function_that_cannot_be_imported_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="cannot be used: it raised ModuleNotFoundError"):
        own(tmp_path, [{"prompt": "p"}], "import no_such_module")
    with pytest.raises(TaskError, match="requires the argument `answer`"):
        own(tmp_path, [{"prompt": "p"}], "def f(completions, answer): ...")
