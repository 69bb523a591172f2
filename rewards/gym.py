"""Tasks of the package reasoning-gym, an extra: `reasoning_gym:NAME`."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import count
from types import ModuleType
from typing import Any

from configs.schema import GYM
from rewards.builtin import Question
from rewards.errors import TaskError

CHUNK = 1000
"""Questions of one of the package's data sets, which have a size; further ones come from the next seeds."""

PATIENCE = 1000
"""So many questions in a row that were there before mean that there are no others."""


@dataclass(frozen=True)
class GymQuestion(Question):
    """answer: empty where the package names none. entry: the package's record, which its scorer needs."""

    entry: Mapping[str, Any]


EXAMPLE_GYM_QUESTION = GymQuestion(
    id="count_bits-0",
    text="How many 1 bits are there in the binary representation of the number 5?",
    answer="2",
    entry={
        "question": "How many 1 bits are there in the binary representation of the number 5?",
        "answer": "2",
        "metadata": {"source_dataset": "count_bits", "source_index": 0, "number": 5},
    },
)


def questions(name: str, seed: int) -> Iterator[GymQuestion]:
    """All questions of the package's task `name` with its default settings, each once, made one at a time.

    Raises TaskError: the package is not installed, or has no such task, or none without settings.
    """
    package = _package()
    names = sorted(package.factory.DATASETS)
    if name not in names:
        near = " or ".join(get_close_matches(name, names, n=3))
        raise TaskError(
            f"task.name: {GYM}{name}: the package reasoning-gym has no task {name!r}. "
            f"{f'Did you mean {near}? ' if near else ''}There are {', '.join(names)}."
        )
    # An entry's own seed is the data set's plus its index, so neighbouring seeds would share nearly all questions.
    start = random.Random(seed).randrange(2**31)
    return _distinct(name, (entry for chunk in count() for entry in _chunk(package, name, start + chunk * CHUNK)))


def _package() -> ModuleType:
    try:
        import reasoning_gym
    except ModuleNotFoundError as error:
        if error.name != "reasoning_gym":
            raise
        raise TaskError(
            f"task.name: {GYM}NAME needs the package reasoning-gym, which is not installed. Install it with "
            "`.venv/bin/uv pip install --python .venv/bin/python 'reasoning-gym==0.1.25'`, or choose another task."
        ) from None
    package: ModuleType = reasoning_gym
    return package


def _chunk(package: ModuleType, name: str, seed: int) -> Iterator[dict[str, Any]]:
    try:
        dataset = package.create_dataset(name, size=CHUNK, seed=seed)
    except Exception as error:
        raise TaskError(
            f"task.name: {GYM}{name} cannot be made with the package's default settings: "
            f"{type(error).__name__}: {error}. Choose another task."
        ) from error
    return (dataset[index] for index in range(CHUNK))


def _distinct(name: str, entries: Iterator[dict[str, Any]]) -> Iterator[GymQuestion]:
    seen: set[str] = set()
    repeated = 0
    for entry in entries:
        text = entry["question"]
        if text in seen:
            repeated += 1
            if repeated == PATIENCE:
                return
            continue
        repeated = 0
        yield GymQuestion(f"{name}-{len(seen)}", text, entry["answer"] or "", entry)
        seen.add(text)
