from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.comparison import Comparison, parse


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 300))
def test_questions_are_distinct_balanced_and_right(seed: int, size: int) -> None:
    questions = list(islice(Comparison.questions(seed), size))
    assert len({question.id for question in questions}) == len({question.text for question in questions}) == size
    yes = sum(question.answer == "Yes" for question in questions)
    assert abs(2 * yes - size) <= 1
    for question in questions:
        left, right = map(int, question.id.split("-")[1:])
        assert question.text == f"Is {left} greater than {right}? Answer Yes or No."
        assert question.answer == ("Yes" if left > right else "No")


def test_the_seed_decides_the_questions() -> None:
    first, again, other = (list(islice(Comparison.questions(seed), 16)) for seed in (3, 3, 4))
    assert first == again != other


def test_there_are_as_many_questions_as_it_says() -> None:
    questions = list(Comparison.questions(0))
    assert len(questions) == len({question.id for question in questions}) == Comparison.capacity


@given(
    word=st.sampled_from(["Yes", "No", "yes", "NO", "yEs"]),
    before=st.text(" \n\t", max_size=3),
    mark=st.sampled_from(["", ".", "!"]),
    after=st.text(" \n\t", max_size=3),
)
def test_an_answer_may_vary_in_case_space_and_full_stop(word: str, before: str, mark: str, after: str) -> None:
    assert parse(f"{before}{word}{mark}{after}") == word.capitalize()


@settings(max_examples=50)
@given(st.text(max_size=8))
def test_nothing_else_is_an_answer(text: str) -> None:
    bare = text.strip().rstrip(".!").lower()
    assert parse(text) is None or bare in ("yes", "no")


@pytest.mark.parametrize(
    "text", ["", " ", "Yes, because", "Yes No", "Yes..", "No?", "ye\u017f", "Answer: Yes", "**Yes**"]
)
def test_malformed_answers(text: str) -> None:
    assert parse(text) is None


@pytest.mark.parametrize(
    ("text", "truncated", "reward", "reason"),
    [
        ("Yes", False, 1.0, "correct"),
        ("No.", False, -0.5, "wrong"),
        ("Yes, because", False, -1.0, "malformed"),
        ("Yes, because 47 is", True, -1.0, "truncated"),
        ("Yes", True, -1.0, "truncated"),
    ],
)
def test_verdicts(text: str, truncated: bool, reward: float, reason: str) -> None:
    verdict = Comparison.verdict("Yes", text, truncated)
    assert (verdict.reward, verdict.reason) == (reward, reason)
