import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.printable import printable

ANY_TEXT = st.text(st.characters(codec=None, categories=None))


@given(ANY_TEXT)
def test_only_what_prints_is_left_and_nothing_moves(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable() and len(shown) == len(text)
    shown.encode()
    assert not {unicodedata.category(letter) for letter in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"}


@given(st.text(st.characters(categories=["L", "M", "N", "P", "S"])))
def test_what_prints_stays(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07\x1b[2J", "�]0;title��[2J"),
        ("a\nb\r\n", "a↵b�↵"),
        ("\u202eevil\u2066", "�evil�"),
        ("\ud800 \x9b", "� �"),
        ("tab\tand\u3000wide\u00a0blanks", "tab and wide blanks"),
    ],
)
def test_examples(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_line_breaks_may_stay() -> None:
    assert printable("a\nb\x1b", line_end="\n") == "a\nb�"
