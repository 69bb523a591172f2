"""What answers look like."""

import numpy as np
import pytest

from tests.scored import scored
from trainer.scored import normalized
from trainer.signal.form import Form, without_strangers
from trainer.signal.spread import spread

ROMAN = ["XIV", "IX", "LXI", "VIII", "XLII"]
NUMBERS = ["1", "12", "3", "13"]
LETTERS = ["a", "e", "n", "t"]


@pytest.mark.parametrize(
    ("right", "fitting", "strange"),
    [
        (ROMAN, ["LVI", "lxxxviii", "XC", ""], ["FERLS", "FSERV", "historiography", "XVIXVIXVIXV"]),
        (NUMBERS, ["75", "4", "9999", "x"], ["ananas", "an unknown", "10000", " warships"]),
        (["1", "11", "111", "1111"], ["75", "980"], ["ananas", "12 34 56 78 9"]),
        (LETTERS, ["k", "Z", "7", "kz"], ["ant"]),
        (["Paris", "Rome", "Berlin", "Madrid"], ["Tokyo", "Buenos Aires"], ["The capital is Tokyo", "junkyv"]),
        (["Monday", "Tuesday", "Friday", "Sunday"], ["Thursday", "Wednesday"], ["The day after is a Saturday"]),
    ],
)
def test_what_could_be_an_answer(right: list[str], fitting: list[str], strange: list[str]) -> None:
    form = Form.of(right)
    assert form is not None
    assert [text for text in [*right, *fitting] if not form.fits(normalized(text))] == []
    assert [text for text in strange if form.fits(normalized(text))] == []


def test_answers_that_have_little_in_common_allow_others_like_them() -> None:
    """Each of these has four letters of its own."""
    form = Form.of(["abcd", "efgh", "ijkl", "mnop"])
    assert form is not None and form.fits("qrstu") and not form.fits("qrstuv")


def test_few_right_answers_show_no_form() -> None:
    assert Form.of(["XIV", "xiv", "IX", "LXI", "..."]) is None
    assert Form.of([]) is None


def test_texts_have_no_form() -> None:
    assert Form.of([*NUMBERS, "a" * 200]) is not None
    assert Form.of([*NUMBERS, "a" * 201]) is None


def test_spreading_stays_among_answers() -> None:
    """Of a reward of 0 or 1 every text is an answer: as many rare words as numbers would gain."""
    words = ("ananas", "warships", "history", "umbra")
    group = scored(("12", 60, 0.0), ("75", 4, 0.0), *((word, 4, 0.0) for word in words))
    assert spread(group)[2] > 0
    fitted = spread(without_strangers(group, Form.of(NUMBERS)))
    assert fitted[1] > 0 > max(fitted[2:])
    assert np.average(fitted, weights=group.group.counts) == pytest.approx(0)


def test_a_group_without_two_answers_of_the_form_is_taken_as_it_is() -> None:
    for texts in (["ananas", "warships"], ["ananas", "12"]):
        group = scored(*((text, 4, 0.0) for text in texts))
        assert without_strangers(group, Form.of(NUMBERS)) is group
    numbers = scored(("4", 4, 0.0), ("12", 4, 0.0))
    assert without_strangers(numbers, Form.of(NUMBERS)) is numbers
    assert without_strangers(numbers, None) is numbers
