"""Reward functions of the lessons: one that any answer satisfies, and two that compare with the data."""

from typing import Any


def echoes_itself(completions: list[str], **columns: Any) -> list[float]:
    """1.0 for repeating the word that was asked for, which is read from the wrong place: the completion."""
    words = [text.strip().partition(" ")[0] for text in completions]
    return [1.0 if text.strip().startswith(word) else -1.0 for text, word in zip(completions, words, strict=True)]


def repeats_the_word(completions: list[str], word: list[str], **columns: Any) -> list[float]:
    """1.0 for the word that was asked for, and nothing else."""
    return [1.0 if text.strip() == right else -1.0 for text, right in zip(completions, word, strict=True)]


def continues(completions: list[str], next: list[str] | None = None, **columns: Any) -> list[float]:
    """1.0 for the next word of the pattern, as the column `next` has it."""
    rights: list[str | None] = [None] * len(completions) if next is None else [*next]
    return [1.0 if text.strip() == right else 0.0 for text, right in zip(completions, rights, strict=True)]
