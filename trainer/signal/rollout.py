"""A rollout, before it is sampled: the way from the curriculum to a group begins with it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rollout:
    """A prompt's turn in a step. prompt: its number in the data set. temperature: to sample it at. misses: its
    rollouts in a row without a right answer."""

    prompt: int
    temperature: float
    misses: int


EXAMPLE_ROLLOUT = Rollout(prompt=3, temperature=1.4, misses=2)
