"""Ports that answer at once, so that what is left of a step's time is the controller's own.

The groups are made up, of all kinds: with one right answer among near misses and far ones, without one, crowded by
one answer, of one text, and solved. What is in a group depends on the request alone.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from generation.engine import SampleRequest
from generation.groups import Completion, Group
from rewards.prompts import Prompt, Verdict
from trainer.evaluation import EvaluatedOn, Evaluation
from trainer.metrics import StepMetrics
from trainer.ports import Collect
from trainer.scored import ScoredGroup
from trainer.signal.treatment import Treated
from trainer.update.forest import Batch
from trainer.update.report import NO_UPDATE, RankReport

TOKENS = 6
"""Of a completion, the last of which ends it."""

Answer = TypeVar("Answer")


class Instant:
    """All ports. distinct: completions of a group that is not of one text.

    seconds: spent in here since `clear`. marks: phase -> when (`time.perf_counter`) it was over.
    """

    def __init__(self, distinct: int) -> None:
        self.distinct = distinct
        self._version = 0
        self._answers = [_completion(index) for index in range(4 * distinct)]
        self.clear()

    def clear(self) -> None:
        """Before a step that is to be timed."""
        self.seconds = 0.0
        self.marks: dict[str, float] = {}

    def sample(self, requests: Sequence[SampleRequest]) -> tuple[Group, ...]:
        """See `Sampler.sample`."""
        return self._apart("choose", lambda: tuple(map(self._group, requests)))

    def begin(self, requests: Sequence[SampleRequest]) -> Collect:
        """See `Generator.begin`."""
        groups = self.sample(requests)
        return lambda _: groups

    def score(self, groups: Sequence[Group]) -> tuple[ScoredGroup, ...]:
        """See `Scorer.score`."""
        return self._apart("", lambda: tuple(map(_scored, groups)))

    def update(self, batch: Batch) -> RankReport:
        """See `Learner.update`."""
        return self._apart("treat and pack", lambda: replace(NO_UPDATE, grad_norm=1.0, learning_rate=1e-5))

    def sync(self, policy_version: int) -> None:
        """See `WeightSync.sync`."""
        self._version = policy_version

    def phase(self, text: str) -> None:
        """See `Logger.phase`."""

    def alarm(self, text: str) -> None:
        """See `Logger.alarm`."""

    def note(self, text: str) -> None:
        """See `Logger.note`."""

    def evaluation(self, on: EvaluatedOn, evaluation: Evaluation) -> None:
        """See `Logger.evaluation`."""

    def step(self, step: StepMetrics, groups: Sequence[Treated]) -> None:
        """See `Logger.step`."""
        self.marks["remember"] = time.perf_counter()

    def _apart(self, phase: str, answer: Callable[[], Answer]) -> Answer:
        """Answers, and counts the time that it takes as spent in here."""
        start = time.perf_counter()
        self.marks[phase] = start - self.seconds
        answered = answer()
        self.seconds += time.perf_counter() - start
        return answered

    def _group(self, request: SampleRequest) -> Group:
        rng, n = np.random.default_rng(request.seed), request.num_generations
        kind = rng.integers(8)
        if kind == 0:  # of one text, right or wrong
            shares = np.array([n])
        else:
            distinct = min(self.distinct, n)
            weights = 1 / np.arange(1, distinct + 1) ** (3 if kind == 1 else 1)
            shares = 1 + rng.multinomial(n - distinct, weights / weights.sum())
        moved = np.full(TOKENS, -0.5 - 0.1 * (self._version % 7), np.float32)
        order = rng.permutation(len(self._answers))[: len(shares)]
        completions = [
            Completion(known.token_ids, known.text, moved, known.finish_reason, int(count))
            for known, count in zip((self._answers[index] for index in order), -np.sort(-shares), strict=True)
        ]
        return Group(request.prompt, tuple(completions), request.temperature, self._version)


VERDICTS = (
    Verdict(1.0, "correct"),
    *(Verdict(-0.5 + 0.01 * near, "wrong") for near in range(40)),
    Verdict(-1.0, "malformed"),
    Verdict(-1.0, "truncated"),
)


def _completion(index: int) -> Completion:
    """Answers that begin alike."""
    token_ids = np.array([5, index // 16, index // 4, index, 7, 2], np.int32)
    return Completion(token_ids, f"It is {index}.", np.full(TOKENS, -0.5, np.float32), "stop", 1)


def _scored(group: Group) -> ScoredGroup:
    """One in forty-three answers is right."""
    return ScoredGroup(group, tuple(VERDICTS[int(c.token_ids[3]) % len(VERDICTS)] for c in group.completions))


def questions(number: int) -> tuple[Prompt, ...]:
    """So many prompts, which begin alike."""
    shared = tuple(range(10, 50))
    return tuple(
        Prompt(
            f"q{index}",
            ({"role": "user", "content": f"{index}?"},),
            {},
            (*shared, index // 50_000, index % 50_000),
            None,
        )
        for index in range(number)
    )
