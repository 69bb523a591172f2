import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.whole_number import closeness, parse


@pytest.mark.parametrize(("text", "answer"), [("91", "91"), (" 91\n", "91"), ("91.", "91"), ("0", "0"), ("0.", "0")])
def test_answers(text: str, answer: str) -> None:
    assert parse(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "091",
        "00",
        "-91",
        "+91",
        "91.0",
        "1,000",
        "1 000",
        "27 + 64 = 91",
        "91!",
        "9e1",
        "\u0669",
        "9\u0661",
        "²",
    ],
)
def test_malformed_answers(text: str) -> None:
    assert parse(text) is None


@pytest.mark.parametrize(
    ("answer", "given", "expected"),
    [("8", "6", 0.75), ("91", "0", 0.0), ("0", "3", 0.0), ("9" * 20, "9" * 19 + "8", 0.99)],
)
def test_closeness_is_the_smaller_part_of_the_larger(answer: str, given: str, expected: float) -> None:
    assert closeness(answer, given) == expected


def test_a_matching_last_digit_is_no_help() -> None:
    assert closeness("91", "11") < closeness("91", "60") < closeness("91", "90")


@given(st.integers(0, 10**30), st.integers(0, 10**30))
def test_a_wrong_number_is_never_quite_close(answer: int, given: int) -> None:
    if answer != given:
        assert 0.0 <= closeness(str(answer), str(given)) <= 0.99


def test_a_number_with_thousands_of_digits_is_only_wrong() -> None:
    assert closeness("91", "9" * 5000) == 0.0
