import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.binary import Binary

TASK = Binary(0, 255)


def test_the_answers_are_the_numbers_in_binary() -> None:
    asked = {question.id: question for question in TASK.questions(0)}
    for number in range(256):
        question = asked[f"binary-{number}"]
        assert question.text == f"What is {number} in binary? Answer with the digits only."
        assert int(question.answer, 2) == number and question.answer.lstrip("0") == (
            question.answer if number else ""
        )


@pytest.mark.parametrize("text", ["0101", "00", "0b101", "102", "5", "101b", "10 1", "1,0", "1011, which", "+101"])
def test_malformed_answers(text: str) -> None:
    assert TASK.parse(text) is None


@pytest.mark.parametrize(("text", "answer"), [("0", "0"), ("101", "101"), (" 101 ", "101"), ("101.", "101")])
def test_answers(text: str, answer: str) -> None:
    assert TASK.parse(text) == answer


@pytest.mark.parametrize(
    ("answer", "given", "closeness"),
    [
        ("1010", "1011", 3 / 4),
        ("1010", "10", 2 / 4),
        ("10", "1010", 2 / 4),
        ("1111", "10000", 0.0),
        ("0", "1", 0.0),
        ("1000", "1", 0.0),
    ],
)
def test_closeness_counts_matching_digits_from_the_right(answer: str, given: str, closeness: float) -> None:
    assert TASK.closeness(answer, given) == closeness


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_wrong_answer_is_never_quite_close(answer: int, given: int) -> None:
    assert 0.0 <= TASK.closeness(f"{answer:b}", f"{given:b}") < 1.0 or answer == given
