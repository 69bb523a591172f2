"""A group: one prompt and its sampled completions, stored as distinct completions with counts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rewards.prompts import EXAMPLE_PROMPT, Prompt

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Completion:
    """One distinct sampled answer.

    token_ids: [length] int32, the end-of-turn token included when it was sampled.
    text: decoded without special tokens.
    logprobs: [length] float32, natural log, of each token at the group's temperature (1 for greedy), before
        top-p, top-k and min-p. (After them where an engine cannot fork: vLLM gives no other.)
    finish_reason: `stop` (end of turn or a stop string) or `length` (cut off).
    count: how many of the group's samples are this one, at least 1.
    """

    token_ids: NDArray[np.int32]
    text: str
    logprobs: NDArray[np.float32]
    finish_reason: FinishReason
    count: int


@dataclass(frozen=True)
class Group:
    """One prompt's samples; the counts of `completions` sum to `num_generations`.

    completions: distinct in (token_ids, finish_reason), most frequent first.
    temperature: what the samples were drawn at.
    policy_version: version k is what the engines hold after update k; 0 is the model as loaded.

    Pickled as a few long arrays: engines send hundreds of completions, and an array costs more than its numbers.
    """

    prompt: Prompt
    completions: tuple[Completion, ...]
    temperature: float
    policy_version: int

    def __reduce__(self) -> tuple[Any, ...]:
        tokens = [completion.token_ids for completion in self.completions]
        logprobs = [completion.logprobs for completion in self.completions]
        return _unpickled, (
            self.prompt,
            np.concatenate([np.empty(0, np.int32), *tokens]),
            np.concatenate([np.empty(0, np.float32), *logprobs]),
            self.lengths,
            [completion.text for completion in self.completions],
            [completion.finish_reason for completion in self.completions],
            [completion.count for completion in self.completions],
            self.temperature,
            self.policy_version,
        )

    @cached_property
    def num_generations(self) -> int:
        """Samples in all."""
        return sum(completion.count for completion in self.completions)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """[completions] samples of each completion."""
        return np.array([completion.count for completion in self.completions], dtype=np.int64)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """[completions] tokens of each completion."""
        return np.array([len(completion.token_ids) for completion in self.completions], dtype=np.int64)


def _unpickled(
    prompt: Prompt,
    token_ids: NDArray[np.int32],
    logprobs: NDArray[np.float32],
    lengths: NDArray[np.int64],
    texts: Sequence[str],
    finish_reasons: Sequence[FinishReason],
    counts: Sequence[int],
    temperature: float,
    policy_version: int,
) -> Group:
    """token_ids, logprobs: [sum of lengths], one completion after another; copied, so that a completion that is kept
    does not keep all others, or Ray's memory that they came in."""
    ends = np.cumsum(lengths).tolist()
    completions = tuple(
        Completion(token_ids[start:end].copy(), text, logprobs[start:end].copy(), reason, count)
        for start, end, text, reason, count in zip([0, *ends], ends, texts, finish_reasons, counts, strict=False)
    )
    return Group(prompt, completions, temperature, policy_version)


def tree_nodes(sequences: Iterable[Sequence[int]]) -> int:
    """Nodes of the prefix tree of the sequences."""
    nodes = 0
    before: list[int] = []
    for sequence in sorted(map(list, sequences)):
        pairs = zip(before, sequence, strict=False)
        nodes += len(sequence) - sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        before = sequence
    return nodes


EXAMPLE_GROUP = Group(
    prompt=EXAMPLE_PROMPT,
    completions=(
        Completion(
            token_ids=np.array([10539, 2], dtype=np.int32),
            text="Yes",
            logprobs=np.array([-0.3, -0.1], dtype=np.float32),
            finish_reason="stop",
            count=96,
        ),
        Completion(
            token_ids=np.array([3706, 2], dtype=np.int32),
            text="No",
            logprobs=np.array([-1.4, -0.1], dtype=np.float32),
            finish_reason="stop",
            count=32,
        ),
    ),
    temperature=1.0,
    policy_version=3,
)
