"""Every built-in task proves itself: what it asks, and what it gives for its own answers and for every kind of no
answer, with all seeds, difficulties, shapings and splits."""

import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.loading import load
from configs.schema import Difficulty, Shaping, TaskSettings
from rewards import shares
from rewards.builtin import BuiltinTask
from rewards.errors import TaskError
from rewards.prompts import Message, Verdict
from rewards.task import TASKS, Task, load_task
from tests.configs.test_loading import RECIPES

NAMES = sorted(TASKS)
TASKS_PAGE = Path(__file__).parents[2] / "docs" / "tasks.md"
DIFFICULTIES: tuple[Difficulty, ...] = get_args(Difficulty)
SHAPINGS: tuple[Shaping, ...] = get_args(Shaping)

seeds = st.integers(0, 2**32 - 1)
tasks = st.builds(
    lambda name, difficulty: TASKS[name](*TASKS[name].ranges[difficulty]),
    st.sampled_from(NAMES),
    st.sampled_from(DIFFICULTIES),
)


def tokenize(messages: Sequence[Message]) -> list[int]:
    return [len(messages)]


def make(**chosen: object) -> Task:
    return load_task(TaskSettings.model_validate(chosen), 0, tokenize)


def judged(task: Task, text: str, truncated: bool = False, index: int = 0) -> Verdict:
    return task.score(task.prompts[index], [text], [truncated], [[1]])[0]


def user_turns(task: Task) -> tuple[set[str], set[str]]:
    """The questions asked, and those shown as examples."""
    asked = {prompt.messages[-1]["content"] for prompt in task.prompts}
    shown = {
        message["content"] for prompt in task.prompts for message in prompt.messages[:-1] if message["role"] == "user"
    }
    return asked, shown


@given(tasks, seeds)
@settings(max_examples=60)
def test_questions_do_not_repeat_and_come_again_with_their_seed(task: BuiltinTask, seed: int) -> None:
    number = min(task.capacity, 300)
    questions = list(islice(task.questions(seed), number))
    assert len({question.id for question in questions}) == len({question.text for question in questions}) == number
    assert questions == list(islice(task.questions(seed), number))


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides_the_questions(name: str) -> None:
    task = TASKS[name](*TASKS[name].ranges["medium"])
    one, other = (list(islice(task.questions(seed), 16)) for seed in (0, 1))
    assert one != other


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("arithmetic", 0, 20), ("arithmetic", 5, 5), ("binary", 3, 90), ("comparison", 5, 25), ("counting", 1, 2)],
)
def test_there_are_as_many_questions_as_it_says(name: str, low: int, high: int) -> None:
    task = TASKS[name](low, high)
    questions = list(task.questions(0))
    assert len(questions) == len({question.id for question in questions}) == task.capacity


@pytest.mark.parametrize("name", NAMES)
def test_a_range_bounds_the_questions(name: str) -> None:
    low, high = (3, 4) if name == "counting" else (40, 60)
    for question in islice(TASKS[name](low, high).questions(0), 100):
        numbers = [int(word) for word in question.id.split("-")[1:]][: 1 if name == "counting" else None]
        assert all(low <= number <= high for number in numbers), question


@given(tasks, seeds, st.sampled_from(["", " ", "\n"]), st.sampled_from(["", "."]))
@settings(max_examples=60)
def test_its_own_answer_is_read_with_spaces_and_a_full_stop(
    task: BuiltinTask, seed: int, space: str, stop: str
) -> None:
    for question in islice(task.questions(seed), 20):
        assert task.parse(f"{space}{question.answer}{stop}{space}") == question.answer


MALFORMED = {
    "empty": "",
    "only spaces": " \n",
    "words": "I do not know",
    "the answer and an explanation": "{answer} because it is so",
    "an explanation and the answer": "The answer is {answer}",
    "two answers": "{answer} {answer}",
    "two answers, a comma": "{answer}, {answer}",
    "two full stops": "{answer}..",
    "a space before the full stop": "{answer} .",
    "a second line": "{answer}\nNext question?",
    "marked up": "**{answer}**",
    "quoted": '"{answer}"',
    "another sign": "-{answer}",
    "a decimal": "{answer}.0",
    "a digit of another alphabet": "\u0663",
    "a full-width digit": "\uff11",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("difficulty", DIFFICULTIES)
@pytest.mark.parametrize("shaping", SHAPINGS)
def test_what_everything_is_worth(name: str, difficulty: Difficulty, shaping: Shaping) -> None:
    task = make(name=name, difficulty=difficulty, shaping=shaping, size=8)
    for index, prompt in enumerate(task.prompts):
        answer = prompt.columns["answer"]
        assert judged(task, answer, index=index) == Verdict(1.0, "correct")
        assert judged(task, answer, truncated=True, index=index) == Verdict(-1.0, "truncated")
        for kind, text in MALFORMED.items():
            assert judged(task, text.format(answer=answer), index=index) == Verdict(-1.0, "malformed"), kind
        for other in {other.columns["answer"] for other in task.prompts} - {answer}:
            verdict = judged(task, other, index=index)
            assert verdict.outcome == "wrong"
            assert verdict.reward == -1.0 if shaping == "none" else -0.5 <= verdict.reward < 0.0


@given(tasks, seeds, st.text(max_size=12))
@settings(max_examples=300)
def test_no_text_but_the_answer_is_right(task: BuiltinTask, seed: int, text: str) -> None:
    question = next(task.questions(seed))
    given = task.parse(text)
    if given == question.answer:
        assert text.strip().rstrip(".!").lower() == question.answer.lower()
    elif given is not None:
        assert 0.0 <= task.closeness(question.answer, given) < 1.0


@pytest.mark.parametrize("name", NAMES)
def test_the_documentation_tells_what_its_examples_earn(name: str) -> None:
    section = TASKS_PAGE.read_text().split(f"\n## {name}\n")[1].split("\n## ")[0]
    question = next(TASKS[name](*TASKS[name].ranges["medium"]).questions(0))
    assert f"> {question.text}\n" in section
    assert f"| completion, {question.answer} being right | `partial` | `none` |" in section
    rows = re.findall(r"^\| (`.*) \| (\S+) \| (\S+) \|$", section, re.MULTILINE)
    assert len(rows) >= 3
    for shaping, column in (("partial", 1), ("none", 2)):
        task = make(name=name, shaping=shaping, size=1)
        assert task.prompts[0].messages[-1]["content"] == question.text
        for row in rows:
            for completion in re.findall("`([^`]*)`", row[0]):
                assert judged(task, completion).reward == pytest.approx(float(row[column]), abs=5e-4), completion


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [0, 1, 7])
@pytest.mark.parametrize(("few", "many"), [(2, 30), (30, 30), (300, 5)])
def test_training_examples_and_held_out_split_share_no_question(name: str, seed: int, few: int, many: int) -> None:
    chosen = {"name": name, "seed": seed, "difficulty": "hard", "few_shot": 3}
    if name == "binary":
        few, many = min(few, 200), min(many, 30)
    trained, shown = user_turns(make(**chosen, size=few))
    held_out, shown_again = user_turns(make(**chosen, size=many, split="test"))
    assert (len(trained), len(held_out), len(shown)) == (few, many, 3)
    assert shown == shown_again
    assert not trained & held_out and not (trained | held_out) & shown


@pytest.mark.parametrize("name", NAMES)
def test_the_number_of_prompts_decides_nothing_else(name: str) -> None:
    fewer, more = (make(name=name, few_shot=3, difficulty="hard", size=size) for size in (5, 50))
    assert fewer.prompts == more.prompts[:5]


@pytest.mark.parametrize(("name", "high"), [("binary", 15), ("binary", 5), ("comparison", 6), ("arithmetic", 4)])
def test_a_small_task_is_asked_whole_and_shows_its_other_questions(name: str, high: int) -> None:
    task = TASKS[name](0, high)
    made = make(name=name, range=(0, high), size=task.capacity, few_shot=5)
    asked, shown = user_turns(made)
    assert asked == {question.text for question in task.questions(0)}
    assert len(shown) == 6 and shown <= asked
    for prompt in made.prompts:
        examples = [message["content"] for message in prompt.messages[:-1:2]]
        assert len(set(examples)) == 5 and prompt.messages[-1]["content"] not in examples
        assert all(judged(made, message["content"]).outcome != "malformed" for message in prompt.messages[1:-1:2])
    with pytest.raises(
        TaskError, match=rf"test: {name} has only {task.capacity} questions .* \[0, {high}\].*50 or more"
    ):
        make(name=name, range=(0, high), size=1, split="test")


def test_a_task_of_few_questions_has_one_example_less() -> None:
    assert len(make(name="binary", range=(0, 2), size=3, few_shot=2).prompts) == 3
    with pytest.raises(TaskError, match=r"task.few_shot: 3 .* binary has 2 .*Lower it"):
        make(name="binary", range=(0, 2), size=3, few_shot=3)


@pytest.mark.parametrize("split", ["train", "test"])
def test_all_questions_of_a_split_can_be_asked_and_not_one_more(split: shares.Share) -> None:
    available = shares.size(256, split)
    asked, _ = user_turns(make(name="binary", difficulty="hard", split=split, size=available))
    assert len(asked) == available
    with pytest.raises(TaskError, match=rf"task.size: {available + 1} .* binary has: {available} .*{split}. Lower"):
        make(name="binary", difficulty="hard", split=split, size=available + 1)


def test_a_wide_range_costs_no_more_than_a_narrow_one() -> None:
    task = make(name="arithmetic", range=(0, 10**6), size=20_000)
    assert len({prompt.messages[-1]["content"] for prompt in task.prompts}) == 20_000


def test_more_examples_than_are_set_aside_are_refused() -> None:
    with pytest.raises(TaskError, match=r"task.few_shot: 5 .* arithmetic has 4 .*Lower it"):
        make(name="arithmetic", range=(0, 7), few_shot=5)


def test_a_sentence_has_a_word_at_least() -> None:
    with pytest.raises(TaskError, match=r"task.range: \[0, 3\] .* counting, .* at 1 or above"):
        make(name="counting", range=(0, 3))


@pytest.mark.parametrize(
    "recipe", [path for path in RECIPES if load(path).task.name in TASKS], ids=lambda path: path.stem
)
def test_the_recipes_leave_room_for_every_answer_and_end_of_turn(recipe: object) -> None:
    config = load(str(recipe))
    task = load_task(config.task, config.seed, tokenize)
    longest = max(len(prompt.columns["answer"]) for prompt in task.prompts)  # a token has a character or more
    assert longest + 1 <= config.sampling.max_completion_length
