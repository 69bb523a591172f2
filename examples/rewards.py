"""Rewards of 0 and 1, for the examples beside this file: TRL's signature, one number for each completion."""

import json
import os
import re
import signal
import time
from typing import Any

PASSED = 77
"""Exit status of code that passed its tests; 0 is that of code which ends the process itself."""

CODE_SECONDS = 2.0

Completion = Any
"""Text, or the assistant's message in a list, as the data set has its prompts."""


def exact(completions: list[Completion], answer: list[str], **kwargs: object) -> list[float]:
    """1 for the answer of the data set, but for spaces, case and a full stop at the end."""
    return [float(_plain(_text(one)) == _plain(right)) for one, right in zip(completions, answer, strict=True)]


def json_object(completions: list[Completion], keys: list[list[str]], **kwargs: object) -> list[float]:
    """1 for a JSON object with these keys and no others."""
    return [float(_keys(_text(one)) == set(wanted)) for one, wanted in zip(completions, keys, strict=True)]


def final_number(completions: list[Completion], answer: list[str], **kwargs: object) -> list[float]:
    """1 where the last number is the one behind the four hashes of GSM8K's answers."""
    rights = [right.rpartition("####")[2] for right in answer]
    return [float(_last(_text(one)) == _last(right)) for one, right in zip(completions, rights, strict=True)]


def equal_math(completions: list[Completion], answer: list[str], **kwargs: object) -> list[float]:
    """1 for what is mathematically equal, as math-verify sees it."""
    from math_verify import parse, verify

    pairs = zip(completions, answer, strict=True)
    return [float(verify(parse(f"${right}$"), parse(_text(one)))) for one, right in pairs]


def passes_tests(completions: list[Completion], tests: list[list[str]], **kwargs: object) -> list[float]:
    """1 for Python code that passes all tests."""
    pairs = zip(completions, tests, strict=True)
    return [float(_passes("\n".join([_code(_text(one)), *checks]))) for one, checks in pairs]


def _text(completion: Completion) -> str:
    return str(completion if isinstance(completion, str) else completion[0]["content"])


def _plain(text: str) -> str:
    return "".join(text.split()).removesuffix(".").casefold()


def _keys(text: str) -> set[str] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return set(value) if isinstance(value, dict) else None


def _last(text: str) -> str | None:
    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)
    return numbers[-1].replace(",", "") if numbers else None


def _code(text: str) -> str:
    """The first fenced block, or else all."""
    found = re.search(r"```(?:python)?\n(.*?)(?:```|\Z)", text, re.DOTALL)
    return found[1] if found else text


def _passes(program: str) -> bool:
    """Runs it in a process of its own: it may be any code, and may never end. What it can reach is limited by the
    process of reward functions, which this is called in."""
    child = os.fork()
    if child == 0:
        try:
            exec(program, {"__name__": "answer"})
        except BaseException:  # noqa: BLE001  # SystemExit too: whatever it is, the tests have not passed
            os._exit(1)
        os._exit(PASSED)
    until = time.monotonic() + CODE_SECONDS
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) == PASSED
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False
