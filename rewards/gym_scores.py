"""The reward function of `reasoning_gym:NAME`, in the form of a user's own: rewards/function.py runs it.

In a process of its own because some scorers of the package evaluate an answer as a formula: 9**9**9 is one. They do
it with Python's `eval`, so they get formulas only, and those that evaluate a list get `ast.literal_eval` for it.
"""

import ast
import re
import signal
from collections.abc import Callable
from functools import cache
from types import FrameType
from typing import Any

from reasoning_gym import get_score_answer_fn

NO_ANSWER = -1.0
"""Instead of a score, which is from 0 to 1: an empty text, or one that the package's scorer fails on."""

SECONDS = 2.0
"""Of processor time, for one answer."""

FORMULAS = {"countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration"}
"""Tasks whose scorers evaluate the answer with sympy's `parse_expr`, which is Python's `eval`."""

LISTS = {"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"}
"""Tasks whose scorers call `eval` for an answer that may be a list."""

FUNCTIONS = (
    "sin|cos|tan|cot|sec|csc|asin|acos|atan|sinh|cosh|tanh|asinh|acosh|atanh|exp|log|ln|sqrt|Abs|Integral|pi|oo"
)

FORMULA = re.compile(rf"(\d+(\.\d+)?|\b([A-Za-z]|{FUNCTIONS})\b|[-+*/^!(),\s])*", re.ASCII)
"""No attributes, quotes, underscores, nor any other name: nothing in it can be called but these functions."""

NO_FORMULA = "?"
"""What scorers get for a text that is no formula; they fail on it."""


def scores(completions: list[list[dict[str, str]]], task: list[str], entry: list[dict[str, Any]]) -> list[float]:
    """The package's score of each completion. task: NAME, entry: the package's record of the question, repeated."""
    return [
        _score(name, completion[0]["content"].strip(), of)
        for completion, name, of in zip(completions, task, entry, strict=True)
    ]


@cache
def _scorer(name: str) -> Callable[[str, dict[str, Any]], float]:
    score_answer: Any = get_score_answer_fn(name)
    if name in LISTS:
        score_answer.__globals__["eval"] = ast.literal_eval
    return lambda answer, entry: float(
        score_answer(answer if name not in FORMULAS or FORMULA.fullmatch(answer) else NO_FORMULA, entry)
    )


def _score(name: str, answer: str, entry: dict[str, Any]) -> float:
    if not answer:
        return NO_ANSWER
    score_answer = _scorer(name)
    signal.signal(signal.SIGVTALRM, _too_long)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS, SECONDS)
    try:
        return max(score_answer(answer, entry), 0.0)
    except Exception:  # noqa: BLE001  # scorers raise what their parsers raise: the text is no answer to this task
        return NO_ANSWER
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"scoring took over {SECONDS:g} s")
