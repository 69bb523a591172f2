from itertools import combinations, islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.comparison import Comparison

TASK = Comparison(0, 99)


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 300))
def test_questions_are_distinct_balanced_and_right(seed: int, size: int) -> None:
    questions = list(islice(TASK.questions(seed), size))
    assert len({question.id for question in questions}) == len({question.text for question in questions}) == size
    yes = sum(question.answer == "Yes" for question in questions)
    assert abs(2 * yes - size) <= 1
    for question in questions:
        left, right = map(int, question.id.split("-")[1:])
        assert question.text == f"Is {left} greater than {right}? Answer Yes or No."
        assert question.answer == ("Yes" if left > right else "No")


@pytest.mark.parametrize(("low", "high"), [(0, 0), (0, 1), (3, 9), (5, 40)])
def test_every_pair_is_asked_both_ways(low: int, high: int) -> None:
    asked = {tuple(map(int, question.id.split("-")[1:])) for question in Comparison(low, high).questions(0)}
    pairs = set(combinations(range(low, high + 1), 2))
    assert asked == pairs | {(right, left) for left, right in pairs}


def test_the_recipe_asks_what_it_always_did() -> None:
    first = [question.id for question in islice(TASK.questions(0), 4)]
    assert first == ["comparison-75-39", "comparison-33-93", "comparison-80-44", "comparison-16-38"]


@given(
    word=st.sampled_from(["Yes", "No", "yes", "NO", "yEs"]),
    before=st.text(" \n\t", max_size=3),
    mark=st.sampled_from(["", ".", "!"]),
    after=st.text(" \n\t", max_size=3),
)
def test_an_answer_may_vary_in_case_space_and_full_stop(word: str, before: str, mark: str, after: str) -> None:
    assert TASK.parse(f"{before}{word}{mark}{after}") == word.capitalize()


@settings(max_examples=50)
@given(st.text(max_size=8))
def test_nothing_else_is_an_answer(text: str) -> None:
    bare = text.strip().rstrip(".!").lower()
    assert TASK.parse(text) is None or bare in ("yes", "no")


@pytest.mark.parametrize(
    "text", ["", " ", "Yes, because", "Yes No", "Yes..", "No?", "ye\u017f", "Answer: Yes", "**Yes**", "1"]
)
def test_malformed_answers(text: str) -> None:
    assert TASK.parse(text) is None


def test_there_is_one_wrong_answer_and_no_closer_one() -> None:
    assert TASK.closeness("Yes", "No") == TASK.closeness("No", "Yes") == 0.0
