"""Log-probability drift: how far the policy has moved, read off what the engines report anyway."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from generation.groups import EXAMPLE_GROUP, Completion, Group

MOST_FREQUENT = 8
"""Completions of a first rollout that are remembered."""

FIRST_TOKENS = 32
"""Of each of them. Long completions are hardly ever sampled twice, but they begin alike."""

PROMPTS = 256
"""Prompts that are remembered: enough for a mean."""


@dataclass(frozen=True)
class Beginning:
    """The first tokens of a completion. token_ids: [length] int32. logprobs: [length] float32, natural log."""

    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]


@dataclass(frozen=True)
class FirstRollout:
    """What the policy gave to some completions of a prompt when it was first sampled."""

    beginnings: tuple[Beginning, ...]

    @cached_property
    def logprobs(self) -> Mapping[bytes, float]:
        """First tokens of a completion, as bytes -> their log-probability in nats. Every beginning is there, of one
        token, of two, and so on."""
        return {
            one.token_ids[:length].tobytes(): float(one.logprobs[:length].sum(dtype=np.float64))
            for one in self.beginnings
            for length in range(1, len(one.token_ids) + 1)
        }


@dataclass(frozen=True)
class Drift:
    """first: prompt's number -> its first rollout, of up to `PROMPTS` prompts."""

    first: Mapping[int, FirstRollout] = field(default_factory=dict)

    def of(self, number: int, group: Group) -> float | None:
        """Mean |change| in log-probability since the prompt's first rollout, in nats per completion.

        Every distinct completion counts once, however often it was sampled: a policy that is sure of a wrong answer
        moves in the rare ones first. Each is compared from its start to where it leaves what is remembered. None:
        nothing of them is. Both rollouts must be at one temperature.
        """
        if number not in self.first:
            return None
        known = self.first[number].logprobs
        changes = [_change(known, completion) for completion in group.completions]
        shared = [abs(change) for change in changes if change is not None]
        return sum(shared) / len(shared) if shared else None

    def after(self, numbers: Sequence[int], groups: Iterable[Group]) -> "Drift":
        """With those of the groups that are their prompt's first."""
        unknown = [pair for pair in zip(numbers, groups, strict=True) if pair[0] not in self.first]
        new = {
            number: FirstRollout(tuple(map(_beginning, group.completions[:MOST_FREQUENT])))
            for number, group in unknown[: PROMPTS - len(self.first)]
        }
        return Drift({**self.first, **new}) if new else self


def _beginning(completion: Completion) -> Beginning:
    """A copy: arrays from another process are views of all that it sent, which would stay with them."""
    return Beginning(completion.token_ids[:FIRST_TOKENS].copy(), completion.logprobs[:FIRST_TOKENS].copy())


def _change(known: Mapping[bytes, float], completion: Completion) -> float | None:
    """Of the log-probability of the longest beginning that is known."""
    tokens = completion.token_ids[:FIRST_TOKENS]
    text, width = tokens.tobytes(), tokens.itemsize
    for length in range(len(tokens), 0, -1):
        then = known.get(text[: length * width])
        if then is not None:
            *_, now = accumulate(completion.logprobs[:length].tolist())  # unlike `sum`, alike in all Pythons
            return float(now) - then
    return None


EXAMPLE_DRIFT = Drift().after([0], [EXAMPLE_GROUP])
