"""The reward function of `reasoning_gym:NAME`, in the form of a user's own: rewards/function.py runs it.

In a process of its own because some scorers of the package evaluate an answer as a formula: 9**9**9 is one.
"""

import signal
from functools import cache
from types import FrameType
from typing import Any

from reasoning_gym import get_score_answer_fn

NO_ANSWER = -1.0
"""Instead of a score, which is from 0 to 1: an empty text, or one that the package's scorer fails on."""

SECONDS = 2.0
"""Of processor time, for one answer."""


def scores(completions: list[list[dict[str, str]]], task: list[str], entry: list[dict[str, Any]]) -> list[float]:
    """The package's score of each completion. task: NAME, entry: the package's record of the question, repeated."""
    return [
        _score(name, completion[0]["content"].strip(), of)
        for completion, name, of in zip(completions, task, entry, strict=True)
    ]


_scorer = cache(get_score_answer_fn)


def _score(name: str, answer: str, entry: dict[str, Any]) -> float:
    if not answer:
        return NO_ANSWER
    score_answer = _scorer(name)
    signal.signal(signal.SIGVTALRM, _too_long)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS, SECONDS)
    try:
        return max(float(score_answer(answer, entry)), 0.0)
    except Exception:  # noqa: BLE001  # scorers raise what their parsers raise: the text is no answer to this task
        return NO_ANSWER
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"scoring took over {SECONDS:g} s")
