"""Answers that are whole numbers."""

import re

ANSWER = re.compile(r"(0|[1-9][0-9]*)\.?")


def parse(text: str) -> str | None:
    """The number, if there is nothing else but spaces around it and one full stop.

    >>> parse(" 91. "), parse("091"), parse("It is 91.")
    ('91', None, None)
    """
    match = ANSWER.fullmatch(text.strip())
    return None if match is None else match[1]


def closeness(answer: str, given: str) -> float:
    """The smaller of two different numbers divided by the larger, and never more than 0.99.

    By size, not by digits: credit for matching digits made 11 a good answer for 91, and training stuck to it.

    >>> closeness("8", "6"), closeness("91", "0")
    (0.75, 0.0)
    """
    less, more = sorted((float(answer), float(given)))  # float: thousands of digits become inf, where int refuses
    return min(less / more, 0.99)
