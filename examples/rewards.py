"""Rewards of 0 and 1, for the examples beside this file: TRL's signature, one number for each completion."""

import json
import re
from typing import Any

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
