"""What a reward function prints."""

import sys

from configs.printable import printable

SHOWN_BYTES = 64 * 2**10
"""Passed on at most; the rest of a run's is left out."""

KEPT_BYTES = 64 * 2**10
"""The end of a call's output, for the message if it fails."""

LINE, TOLD = 1000, 400
"""Characters of a line that is passed on, and of the output in a message, at most."""


class Output:
    """Passes it on to standard error, line by line and made printable, each line after the function's name."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._shown = 0
        self._begun = b""  # of a line that is not complete
        self._kept = bytearray()

    def add(self, data: bytes) -> None:
        """The next part of it."""
        self._kept += data
        del self._kept[:-KEPT_BYTES]
        if self._shown >= SHOWN_BYTES:
            return
        *lines, rest = (self._begun + data).split(b"\n")
        self._begun = rest[-SHOWN_BYTES:]
        for line in lines:
            self._show(line)

    def new_call(self) -> None:
        """What came before is not of this call."""
        self._kept.clear()

    def end(self) -> str:
        """The end of the call's output, on one line; empty where nothing was printed."""
        text = printable(" ".join(self._kept.decode(errors="replace").split()))
        return text if len(text) <= TOLD else "..." + text[-TOLD:]

    def _show(self, line: bytes) -> None:
        if self._shown >= SHOWN_BYTES:
            return
        self._shown += len(line) + 1
        text = printable(line.decode(errors="replace").rstrip("\r"))
        print(f"{self._name}: {text[:LINE]}{'...' if len(text) > LINE else ''}", file=sys.stderr)
        if self._shown >= SHOWN_BYTES:
            print(
                f"{self._name}: printed {SHOWN_BYTES // 2**10} KiB; the rest is left out. Print less.",
                file=sys.stderr,
            )
