"""Curriculum: which prompts the next step asks, and at what temperature."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from trainer.signal.kinds import Kind
from trainer.signal.ladder import Ladder

MANY_PROMPTS = 64
"""Prompts in a row without a lesson, from which on they stand for the data set."""

MANY_GAPS = 5
"""Visits to a lesson, times which there may be none by chance: one time in 150."""


class Visit(NamedTuple):
    """A prompt to sample now, the temperature to sample it at, and its visits in a row without a right answer."""

    prompt_id: str
    temperature: float
    misses: int


class Outcome(NamedTuple):
    """What came of a visit: `classify`, `teaches` and `narrow` (trainer/signal/kinds.py) of its group.

    spreads: whether it is trained on to spread, now or after more misses. missed: it held no right answer.
    """

    kind: Kind
    teaches: bool
    spreads: bool
    narrow: bool
    missed: bool


@dataclass(frozen=True)
class Curriculum:
    """What is known of every prompt after some steps: unsolved prompts come first, solved ones are replayed.

    Within either kind the least recently visited come first; ties are broken by `seed` and step. A prompt
    never visited is unsolved, and so is one that a replay finds no longer solved.

    prompt_ids: the whole data set.
    replay_share: share of a step's prompts that are replayed while others are unsolved, between 0 and 1.
        Above 0 at least one solved prompt is replayed, but one place is always left to an unsolved one.
    step: steps recorded so far.
    visited: prompt id -> step of its last visit, for the prompts ever visited.
    solved: ids of the prompts whose last group was solved.
    misses: prompt id -> visits in a row without a right answer.
    rescue_visits: visits without a lesson from rewards that a rescue has, until it counts as tried.
    tries: prompt id -> such visits since any group of the run last taught; without a rescue (a hotter temperature
        next time, or a group to spread) one visit counts as all.
    visits: of all prompts together. lessons: those that taught. visits_to_last_lesson: those up to the last lesson.
    """

    prompt_ids: tuple[str, ...]
    seed: int
    ladder: Ladder
    replay_share: float = 0.25
    step: int = 0
    visited: Mapping[str, int] = field(default_factory=dict)
    solved: frozenset[str] = frozenset()
    misses: Mapping[str, int] = field(default_factory=dict)
    rescue_visits: int = 1
    tries: Mapping[str, int] = field(default_factory=dict)
    visits: int = 0
    lessons: int = 0
    visits_to_last_lesson: int = 0

    @property
    def exhausted(self) -> bool:
        """Whether there are unsolved prompts and nothing is left to try for any of them.

        Of a large data set, for so many of them that it is no accident: `MANY_PROMPTS`, and `MANY_GAPS` times as many
        as there were visits to a lesson.
        """
        unsolved = [prompt_id for prompt_id in self.prompt_ids if prompt_id not in self.solved]
        tried = sum(self.tries.get(prompt_id, 0) >= self.rescue_visits for prompt_id in unsolved)
        gap = self.visits_to_last_lesson / self.lessons if self.lessons else 0.0
        return bool(unsolved) and tried >= min(len(unsolved), max(MANY_PROMPTS, MANY_GAPS * gap))

    def take(self, n: int) -> tuple[Visit, ...]:
        """`n` different prompts: unsolved ones first, then solved ones; where one kind runs short the other
        fills in."""
        if not 1 <= n <= len(self.prompt_ids):
            raise ValueError(f"Cannot take {n} different prompts from a data set of {len(self.prompt_ids)}.")
        waiting = self._longest_waiting_first()
        unsolved = [prompt_id for prompt_id in waiting if prompt_id not in self.solved]
        solved = [prompt_id for prompt_id in waiting if prompt_id in self.solved]

        replayed = max(1, round(self.replay_share * n)) if self.replay_share > 0 else 0
        replayed = min(replayed, n - 1, len(solved))
        fresh = unsolved[: n - replayed]
        chosen = fresh + solved[: n - len(fresh)]
        return tuple(Visit(p, self.ladder.temperature(p), self.misses.get(p, 0)) for p in chosen)

    def record(self, outcomes: Mapping[str, Outcome]) -> "Curriculum":
        """The curriculum after a step that visited the prompts in `outcomes`."""
        ladder = self.ladder
        visits, taught = self.visits + len(outcomes), sum(outcome.teaches for outcome in outcomes.values())
        tries = {} if taught else dict(self.tries)
        for prompt_id, outcome in outcomes.items():
            ladder = ladder.after(prompt_id, outcome.kind, outcome.teaches, outcome.narrow)
            rescued = outcome.spreads or ladder.temperature(prompt_id) > ladder.base_temperature
            if not outcome.teaches:
                tries[prompt_id] = tries.get(prompt_id, 0) + (1 if rescued else self.rescue_visits)
        solved = {prompt_id for prompt_id, outcome in outcomes.items() if outcome.kind == "solved"}
        return replace(
            self,
            ladder=ladder,
            step=self.step + 1,
            visited={**self.visited, **dict.fromkeys(outcomes, self.step)},
            solved=(self.solved - outcomes.keys()) | solved,
            misses={**self.misses, **{p: self.misses.get(p, 0) + 1 if o.missed else 0 for p, o in outcomes.items()}},
            tries=tries,
            visits=visits,
            lessons=self.lessons + taught,
            visits_to_last_lesson=visits if taught else self.visits_to_last_lesson,
        )

    def _longest_waiting_first(self) -> list[str]:
        shuffled = np.random.default_rng([self.seed, self.step]).permutation(len(self.prompt_ids))
        return sorted(
            (self.prompt_ids[index] for index in shuffled),
            key=lambda prompt_id: self.visited.get(prompt_id, -1),
        )
