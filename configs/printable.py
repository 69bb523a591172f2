"""Text of models, data sets, reward functions and exceptions, made fit for a terminal or a page."""


def printable(text: str, line_end: str = "↵") -> str:
    """The text with every character that does not print (escapes and other control characters, marks that turn the
    direction of writing, lone surrogates) as `�`, and every line break as `line_end`."""
    return "".join(line_end if each == "\n" else each if each.isprintable() else "�" for each in text)
