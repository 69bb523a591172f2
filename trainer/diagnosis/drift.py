"""Policy shift: how far the policy has moved, read off the log-probabilities that the engines give anyway."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from generation.groups import EXAMPLE_GROUP, Completion, Group

MOST_FREQUENT = 8
"""Completions of a first visit that are remembered."""

FIRST_TOKENS = 32
"""Of each of them. Long completions are hardly ever sampled twice, but they begin alike."""

PROMPTS = 256
"""Prompts that are remembered: enough for a mean."""


@dataclass(frozen=True)
class FirstVisits:
    """What the policy gave to some completions when their prompt was first visited.

    logprobs: prompt id -> first tokens of a completion, as bytes -> their log-probability in nats. Every beginning
        is there, of one token, of two, and so on.
    """

    logprobs: Mapping[str, Mapping[bytes, float]] = field(default_factory=dict)

    def shift(self, group: Group) -> float | None:
        """Mean |change| in log-probability since the prompt's first visit, in nats per completion.

        Every distinct completion counts once, however often it was sampled: a policy that is sure of a wrong answer
        moves in the rare ones first. Each is compared from its start to where it leaves what is remembered. None:
        nothing of them is. Both visits must be at one temperature.
        """
        known = self.logprobs.get(group.prompt.id, {})
        changes = [_change(known, completion) for completion in group.completions]
        shared = [abs(change) for change in changes if change is not None]
        return sum(shared) / len(shared) if shared else None

    def seen(self, group: Group) -> "FirstVisits":
        """With the group, if it is its prompt's first."""
        if group.prompt.id in self.logprobs or len(self.logprobs) >= PROMPTS:
            return self
        beginnings = {
            completion.token_ids[:length].tobytes(): float(completion.logprobs[:length].sum(dtype=np.float64))
            for completion in group.completions[:MOST_FREQUENT]
            for length in range(1, min(len(completion.token_ids), FIRST_TOKENS) + 1)
        }
        return FirstVisits({**self.logprobs, group.prompt.id: beginnings})


def _change(known: Mapping[bytes, float], completion: Completion) -> float | None:
    """Of the log-probability of the longest beginning that is known."""
    logprobs = np.cumsum(completion.logprobs[:FIRST_TOKENS], dtype=np.float64)
    for length in range(len(logprobs), 0, -1):
        then = known.get(completion.token_ids[:length].tobytes())
        if then is not None:
            return float(logprobs[length - 1]) - then
    return None


EXAMPLE_FIRST_VISITS = FirstVisits().seen(EXAMPLE_GROUP)
