"""Text of models, data sets, reward functions and exceptions, made fit for a terminal or a page."""

import unicodedata


def printable(text: str, line_end: str = "↵") -> str:
    """The text with every line break as `line_end`, every tab or other blank as a space, and what else does not print
    (escapes and other control characters, marks that turn the direction of writing, lone surrogates) as `�`."""
    return "".join(line_end if each == "\n" else _shown(each) for each in text)


def _shown(letter: str) -> str:
    if letter.isprintable():
        return letter
    return " " if letter == "\t" or unicodedata.category(letter) == "Zs" else "�"
