"""Processes in the places of engines and ranks, which answer at once: what shipping the answers costs stays, what
computing them costs does not. They import no torch and no vLLM, so that a machine holds a hundred.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from generation.engine import SampleRequest
from generation.groups import Completion, Group
from launch.processes.heartbeat import beat_forever
from trainer.update.forest import Forest
from trainer.update.report import NO_UPDATE, RankReport

VOCABULARY = 151_936
"""Of Qwen3: completions begin to differ with their first token."""

RARE = 64
"""One in so many answers is right: their prompts keep their full groups."""

STARTS = 4096
"""Different completions that a process makes up."""


class SimulatedEngine:
    """In the place of `launch.processes.actors.EngineProcess`."""

    def __init__(self) -> None:
        beat_forever()
        self._tokens, self._version, self._seconds = 1, 0, 0.0

    def answer_with(self, tokens: int) -> None:
        """From now on every completion has so many tokens."""
        self._tokens = tokens
        completions.cache_clear()

    def making(self) -> float:
        """Seconds that making up groups has taken since this was asked last."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def ready(self) -> None:
        """It is."""

    @ray.method(num_returns="streaming")
    def stream(self, requests: Sequence[SampleRequest]) -> Iterator[tuple[int, Group]]:
        for turn, request in enumerate(requests):
            yield turn, self._group(turn, request)

    def confirm(self, policy_version: int, checksum: int) -> None:
        self._version = policy_version

    def _group(self, turn: int, request: SampleRequest) -> Group:
        start = time.perf_counter()
        group = made_up(request, turn, self._tokens, self._version)
        self._seconds += time.perf_counter() - start
        return group


class SimulatedRank:
    """In the place of `launch.processes.actors.RankProcess`."""

    def __init__(self) -> None:
        beat_forever()

    def ready(self) -> None:
        """It is."""

    def update(
        self, forests: Sequence[Forest], num_samples: int, num_tokens: int, step_size: float = 1.0
    ) -> RankReport:
        return replace(NO_UPDATE, grad_norm=1.0, learning_rate=1e-5)

    def listener(self) -> tuple[str, int]:
        return "127.0.0.1", 0

    def connect(
        self, backend: str, engines: Mapping[str, Any], workers_per_engine: int, listener: Any, timeout: float
    ) -> None:
        """There is nothing to send."""

    def sync_weights(self, policy_version: int) -> int:
        return policy_version


def made_up(request: SampleRequest, turn: int, tokens: int, policy_version: int) -> Group:
    """A group of distinct completions of so many tokens. turn: of the request among those of a call."""
    made = completions(turn, request.num_generations, tokens)
    return Group(request.prompt, made, request.temperature, policy_version)


@cache
def completions(turn: int, number: int, tokens: int) -> tuple[Completion, ...]:
    """Kept, and so made once."""
    source = _source(tokens)
    return tuple(source.completion(turn + index, right=index % RARE == 0) for index in range(number))


@dataclass(frozen=True)
class _Source:
    """What completions are cut from. token_ids, logprobs: [STARTS + tokens]. text: `STARTS` characters more than a
    completion has."""

    tokens: int
    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    text: str

    def completion(self, number: int, right: bool) -> Completion:
        """Two of different numbers below `STARTS` have different tokens and texts."""
        start = number % STARTS
        some = slice(start, start + self.tokens)
        text = f"{'Yes' if right else 'No'} {start:04d} {self.text[start : start + 4 * self.tokens]}"
        return Completion(self.token_ids[some], text, self.logprobs[some], "stop", 1)


@lru_cache(maxsize=1)
def _source(tokens: int) -> _Source:
    rng = np.random.default_rng(0)
    size = STARTS + tokens
    letters = rng.integers(ord("a"), ord("z") + 1, STARTS + 4 * tokens, np.uint8)
    return _Source(
        tokens,
        rng.integers(VOCABULARY, size=size, dtype=np.int32),
        -rng.exponential(size=size).astype(np.float32),
        letters.tobytes().decode("ascii"),
    )
