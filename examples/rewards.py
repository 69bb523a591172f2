"""Rewards of 0 and 1, for the examples beside this file: TRL's signature, one number for each completion."""

import json
import re


def exact(completions: list[str], answer: list[str], **kwargs: object) -> list[float]:
    """1 for the answer of the data set, but for spaces, case and a full stop at the end."""
    return [float(_plain(text) == _plain(right)) for text, right in zip(completions, answer, strict=True)]


def json_object(completions: list[str], keys: list[list[str]], **kwargs: object) -> list[float]:
    """1 for a JSON object with these keys and no others."""
    return [float(_keys(text) == set(wanted)) for text, wanted in zip(completions, keys, strict=True)]


def _plain(text: str) -> str:
    return "".join(text.split()).removesuffix(".").casefold()


def _keys(text: str) -> set[str] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return set(value) if isinstance(value, dict) else None


def final_number(completions: list[str], answer: list[str], **kwargs: object) -> list[float]:
    """1 where the last number is the one behind the four hashes of GSM8K's answers."""
    return [
        float(_last(text) == _last(right.rpartition("####")[2]))
        for text, right in zip(completions, answer, strict=True)
    ]


def _last(text: str) -> str | None:
    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)
    return numbers[-1].replace(",", "") if numbers else None
