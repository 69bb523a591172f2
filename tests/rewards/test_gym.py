"""Tasks of the package reasoning-gym, judged by its own scorers in their process."""

import inspect
import pickle
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import Shaping, TaskSettings
from rewards import gym
from rewards.errors import TaskError
from rewards.judges import GymJudge
from rewards.prompts import Message, Verdict
from rewards.task import Task, load_task

reasoning_gym = pytest.importorskip("reasoning_gym", reason="the extra reasoning_gym is not installed")
gym_scores = pytest.importorskip("rewards.gym_scores")

VARIED = [
    "chain_sum",  # a number
    "coin_flip",  # one of few words
    "word_sorting",  # a list
    "binary_matrix",  # several lines
    "countdown",  # a formula, one of many right ones
    "knights_knaves",  # a sentence
    "acre",  # made all at once
]


JUDGES: dict[Shaping, GymJudge] = {shaping: GymJudge(shaping, 60.0) for shaping in ("none", "partial")}
"""Shared by all tasks: a process that imports the package takes seconds to start."""


def tokenize(messages: Sequence[Message]) -> list[int]:
    return [len(messages)]


@cache
def task(name: str, shaping: Shaping = "partial", **chosen: int | str) -> Task:
    settings = {"name": f"reasoning_gym:{name}", "size": 8, "shaping": shaping} | chosen
    made = load_task(TaskSettings.model_validate(settings), 0, tokenize)
    return replace(made, judge=JUDGES[shaping])


@pytest.fixture(scope="module", autouse=True)
def _close_the_judges() -> Iterator[None]:
    yield
    for judge in JUDGES.values():
        judge.function.close()


def judged(of: Task, text: str, truncated: bool = False, index: int = 0) -> Verdict:
    return of.score(of.prompts[index], [text], [truncated], [[1]])[0]


@pytest.mark.parametrize("name", VARIED)
def test_its_own_answers_are_right_and_nothing_is_malformed(name: str) -> None:
    made = task(name, few_shot=2)
    assert len({prompt.messages[-1]["content"] for prompt in made.prompts}) == 8
    for index, prompt in enumerate(made.prompts):
        assert judged(made, prompt.columns["answer"], index=index) == Verdict(1.0, "correct")
        assert judged(made, f" {prompt.columns['answer']}\n", index=index) == Verdict(1.0, "correct")
        assert judged(made, prompt.columns["answer"], truncated=True, index=index) == Verdict(-1.0, "truncated")
        assert judged(made, " ", index=index) == Verdict(-1.0, "malformed")
        assert judged(made, "fish and chips", index=index).outcome == "wrong"


def test_partial_credit_is_the_score_of_the_package() -> None:
    name, wrong = "binary_alternation", "12345"
    scored = {shaping: task(name, shaping) for shaping in ("none", "partial")}
    entry = scored["none"].prompts[0].columns["entry"]
    score = reasoning_gym.get_score_answer_fn(name)(wrong, entry)
    assert score == 1 / 5  # the right answer is among the digits
    assert judged(scored["partial"], wrong) == Verdict(-0.5 + 0.5 * score, "wrong")
    assert judged(scored["none"], wrong) == Verdict(-1.0, "wrong")


def test_a_text_that_the_scorer_fails_on_is_malformed() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        reasoning_gym.get_score_answer_fn("prime_factorization")(
            "two", task("prime_factorization").prompts[0].columns["entry"]
        )
    assert judged(task("prime_factorization"), "two") == Verdict(-1.0, "malformed")


def test_a_formula_without_end_costs_seconds_and_the_next_answer_is_judged() -> None:
    made = task("countdown")
    begun = time.monotonic()
    assert judged(made, "9**9**9**9").outcome in ("wrong", "malformed")
    assert judged(made, made.prompts[0].columns["answer"]) == Verdict(1.0, "correct")
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("name", ["chain_sum", "tower_of_hanoi"])
def test_training_examples_and_held_out_split_share_no_question(name: str) -> None:
    train = task(name, size=30, few_shot=3)
    test = task(name, size=5, few_shot=3, split="test")
    trained, held_out = ({prompt.messages[-1]["content"] for prompt in made.prompts} for made in (train, test))
    shown = {message["content"] for message in train.prompts[0].messages[:-1:2]}
    assert (len(trained), len(held_out), len(shown)) == (30, 5, 3)
    assert not trained & held_out and not (trained | held_out) & shown
    assert train.prompts[0].messages[:-1] == test.prompts[0].messages[:-1]


def test_questions_come_again_with_their_seed_and_neighbouring_seeds_share_none() -> None:
    asked = [[question.text for question in islice(gym.questions("chain_sum", seed), 50)] for seed in (3, 3, 4)]
    assert asked[0] == asked[1] and not set(asked[0]) & set(asked[2])


def test_there_are_more_questions_than_one_of_the_package_s_data_sets_has() -> None:
    drawn = list(islice(gym.questions("chain_sum", 0), gym.CHUNK + 10))
    assert len({question.id for question in drawn}) == len({question.text for question in drawn}) == gym.CHUNK + 10


def test_a_task_with_few_questions_ends() -> None:
    with pytest.raises(TaskError, match=r"task.size: 500 .* reasoning_gym:tower_of_hanoi has: \d\d different"):
        task("tower_of_hanoi", size=500)


def test_a_task_can_be_sent_to_another_process() -> None:
    settings = TaskSettings(name="reasoning_gym:chain_sum", reward_timeout=70, shaping="none")
    made = pickle.loads(pickle.dumps(load_task(settings, 0, tokenize)))
    assert isinstance(made.judge, GymJudge)
    assert (made.judge.shaping, made.judge.function.timeout) == ("none", 70)
    assert judged(made, made.prompts[3].columns["answer"], index=3).outcome == "correct"
    made.judge.function.close()


def test_a_misspelt_name_is_refused_naming_the_nearest_and_all() -> None:
    with pytest.raises(TaskError) as refused:
        task("chain_sums")
    message = str(refused.value)
    assert "has no task 'chain_sums'. Did you mean chain_sum or " in message
    assert all(name in message for name in reasoning_gym.factory.DATASETS)


def test_a_task_that_needs_settings_is_refused() -> None:
    with pytest.raises(TaskError, match=r"composite cannot be made .*default settings: AssertionError: Must specify"):
        task("composite")


def test_examples_of_a_task_without_answers_are_refused() -> None:
    assert len(task("graph_color").prompts) == 8
    with pytest.raises(
        TaskError, match=r"task.few_shot: 2 is not allowed for reasoning_gym:graph_color.*Leave it out"
    ):
        task("graph_color", few_shot=2)


@pytest.mark.parametrize(("key", "value"), [("difficulty", "hard"), ("range", (0, 9))])
def test_settings_of_built_in_tasks_are_refused(key: str, value: object) -> None:
    with pytest.raises(TaskError, match=rf"task.{key}: .* is not allowed for reasoning_gym:dice.*Leave it out"):
        load_task(TaskSettings.model_validate({"name": "reasoning_gym:dice", key: value}), 0, tokenize)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(TaskError, match=r"package reasoning-gym, which is not installed.*uv pip install"):
        next(gym.questions("chain_sum", 0))


UNTOLD = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}
"""Tasks that tell no answer."""

LENIENT = {"game_of_life_halting"}
"""Where the right answer is False, its scorer takes whatever is not True for it."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", sorted(set(reasoning_gym.factory.DATASETS) - {"composite"}))
def test_every_task_of_the_package_asks_and_scores_its_own_answer_best(name: str) -> None:
    question = next(gym.questions(name, 0))
    assert question.text.strip()
    assert (not question.answer) == (name in UNTOLD)
    pickle.loads(pickle.dumps(question))
    texts = [question.answer or "no idea", "", "fish and chips"]
    own, empty, nonsense = gym_scores.scores(
        [[{"role": "assistant", "content": text}] for text in texts], [name] * 3, [dict(question.entry)] * 3
    )
    assert own == 1.0 or name in UNTOLD
    assert empty == gym_scores.NO_ANSWER
    assert nonsense < 1.0 or name in LENIENT


@given(st.text(max_size=10))
def test_no_score_is_out_of_bounds(text: str) -> None:
    entry = dict(next(gym.questions("gcd", 0)).entry)
    (score,) = gym_scores.scores([[{"role": "assistant", "content": text}]], ["gcd"], [entry])
    assert score == gym_scores.NO_ANSWER or 0.0 <= score <= 1.0


EVALUATES = re.compile(r"\b(eval|exec|parse_expr|sympify)\(answer")


def test_every_scorer_that_evaluates_answers_is_known() -> None:
    """Those that a new version of the package brings must be added to rewards/gym_scores.py and docs/tasks.md."""
    found = {
        name
        for name in set(reasoning_gym.factory.DATASETS) - {"composite"}
        if EVALUATES.search(inspect.getsource(reasoning_gym.get_score_answer_fn(name)))
    }
    assert found == gym_scores.FORMULAS | gym_scores.LISTS
    page = (Path(__file__).parents[2] / "docs/tasks.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in found)


@pytest.mark.parametrize("name", sorted(gym_scores.FORMULAS | gym_scores.LISTS))
@pytest.mark.parametrize("frame", ["{}", "[{}]", "1 + len([{}])", "(lambda: {})()"])
def test_no_completion_is_executed(name: str, frame: str, tmp_path: Path) -> None:
    made, mark = task(name), tmp_path / "mark"
    for call in (f"open({str(mark)!r}, 'w')", f"__import__('os').system('touch {mark}')", "exit()"):
        assert judged(made, frame.format(call)).outcome in ("wrong", "malformed")
    assert judged(made, made.prompts[0].columns["answer"]) == Verdict(1.0, "correct")
    assert not mark.exists()


@pytest.mark.parametrize("name", sorted(gym_scores.FORMULAS))
def test_every_right_formula_is_evaluated(name: str) -> None:
    for question in islice(gym.questions(name, 1), 20):
        assert gym_scores.FORMULA.fullmatch(question.answer), question.answer


def test_an_answer_that_is_a_list_is_still_read() -> None:
    made = task("spiral_matrix")
    listed = str(made.prompts[0].columns["answer"].split())
    assert judged(made, listed) == Verdict(-0.5 + 0.5 * 0.1, "wrong")


@given(st.text(alphabet="x1+*()._'\"[] \n", max_size=12))
def test_formulas_have_no_attributes_quotes_or_underscores(text: str) -> None:
    if gym_scores.FORMULA.fullmatch(text):
        assert not re.search(r"[_'\"\[]|\.\D|\D\.|^\.|\.$|x1|xx", text)
