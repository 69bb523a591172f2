"""Curriculum: which prompts the next step asks, and at what temperature."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from configs.schema import Config
from trainer.columns import changed
from trainer.signal.ladder import ladder
from trainer.signal.rollout import Rollout
from trainer.signal.treatment import Treated

MANY_PROMPTS = 64
"""Prompts in a row without a lesson, from which on they stand for the data set."""

MANY_GAPS = 5
"""Rollouts to a lesson, times which there may be none by chance: one time in 150."""

NEVER = -1


@dataclass(frozen=True)
class Curriculum:
    """What is known of every prompt after some steps: unsolved prompts come first, solved ones are replayed.

    Within either kind those come first whose last rollout is longest ago; ties are broken by the run's seed and the
    step. A prompt without a rollout is unsolved, and so is one that a replay finds no longer solved.

    step: steps done.
    last: [prompts] step before the prompt's last rollout, or `NEVER`.
    solved: [prompts] its last group was solved.
    misses: [prompts] its rollouts in a row without a right answer.
    rungs: [prompts] of the temperature ladder, for its next rollout.
    sizes: [prompts] of its next group; 0 where none is known.
    tokens: [prompts] of the distinct completions of its latest group; 0 before there was one.
    tries: [prompts] rollouts without a lesson from rewards since any group of the run last taught; without a rescue
        (a hotter temperature next time, or a group to spread) one rollout counts as all.
    rollouts: of all prompts together. lessons: those that taught. rollouts_to_last_lesson: those up to the last.
    """

    step: int
    last: NDArray[np.int32]
    solved: NDArray[np.bool_]
    misses: NDArray[np.int32]
    rungs: NDArray[np.int16]
    sizes: NDArray[np.int32]
    tokens: NDArray[np.int64]
    tries: NDArray[np.int32]
    rollouts: int = 0
    lessons: int = 0
    rollouts_to_last_lesson: int = 0

    @classmethod
    def start(cls, prompts: int, sizes: Mapping[int, int] | None = None) -> "Curriculum":
        """Before the first step, of so many prompts. sizes: of the first groups of some of them."""
        known = sizes or {}
        return cls(
            step=0,
            last=np.full(prompts, NEVER, np.int32),
            solved=np.zeros(prompts, np.bool_),
            misses=np.zeros(prompts, np.int32),
            rungs=np.zeros(prompts, np.int16),
            sizes=changed(np.zeros(prompts, np.int32), [*known], [*known.values()]),
            tokens=np.zeros(prompts, np.int64),
            tries=np.zeros(prompts, np.int32),
        )

    @property
    def prompts_solved(self) -> int:
        """Prompts whose last group was solved."""
        return int(self.solved.sum())

    def exhausted(self, config: Config) -> bool:
        """Whether there are unsolved prompts and nothing is left to try for any of them: all had
        `signal.rescue_visits` tries.

        Of a large data set, for so many of them that it is no accident: `MANY_PROMPTS`, and `MANY_GAPS` times as many
        as there were rollouts to a lesson.
        """
        unsolved = len(self.solved) - self.prompts_solved
        tried = int(((self.tries >= config.signal.rescue_visits) & ~self.solved).sum())
        gap = self.rollouts_to_last_lesson / self.lessons if self.lessons else 0.0
        return unsolved > 0 and tried >= min(unsolved, max(MANY_PROMPTS, MANY_GAPS * gap))

    def take(self, config: Config, n: int) -> tuple[Rollout, ...]:
        """`n` different prompts: unsolved ones first, then solved ones (`signal.replay` of the step while others are
        unsolved, at least one if that is not 0, but one place is always left to an unsolved one); where one kind runs
        short the other fills in."""
        prompts = len(self.solved)
        if not 1 <= n <= prompts:
            raise ValueError(f"Cannot take {n} different prompts from a data set of {prompts}.")
        share, solved = config.signal.replay, self.prompts_solved
        replayed = min(max(1, round(share * n)) if share > 0 else 0, n - 1, solved)
        fresh = min(n - replayed, prompts - solved)

        order = np.random.default_rng([config.seed, self.step]).permutation(prompts)
        chosen = [
            *self._longest_waiting(~self.solved, fresh, order),
            *self._longest_waiting(self.solved, n - fresh, order),
        ]
        rungs, steps = ladder(config), self.rungs[chosen].tolist()
        misses = self.misses[chosen].tolist()
        sizes = np.where(self.sizes[chosen], self.sizes[chosen], self._usual_size(config)).tolist()
        tokens = self.tokens[chosen].tolist()
        return tuple(
            Rollout(prompt, rungs.temperature(rung), missed, size, expected)
            for prompt, rung, missed, size, expected in zip(chosen, steps, misses, sizes, tokens, strict=True)
        )

    def after(self, config: Config, treated: Sequence[Treated]) -> "Curriculum":
        """The curriculum after a step with these groups, of different prompts."""
        rungs, base = ladder(config), config.sampling.temperature
        numbers = [one.rollout.prompt for one in treated]
        before = self.rungs[numbers].tolist()
        taught = sum(one.teaches for one in treated)
        climbed = [
            rungs.after(rung, one.kind, one.teaches, one.narrow) for rung, one in zip(before, treated, strict=True)
        ]
        rescued = [
            one.can_spread or rungs.temperature(rung) > base for rung, one in zip(climbed, treated, strict=True)
        ]
        tried = [
            0 if one.teaches else 1 if again else config.signal.rescue_visits
            for one, again in zip(treated, rescued, strict=True)
        ]
        tries = np.zeros_like(self.tries) if taught else self.tries.copy()
        # More than all says no more, and would overflow in the end.
        tries[numbers] = np.minimum(tries[numbers] + np.array(tried, np.int64), config.signal.rescue_visits)
        missed = np.array([one.missed for one in treated])
        rollouts = self.rollouts + len(treated)
        return replace(
            self,
            step=self.step + 1,
            last=changed(self.last, numbers, self.step),
            solved=changed(self.solved, numbers, [one.kind == "solved" for one in treated]),
            misses=changed(self.misses, numbers, np.where(missed, self.misses[numbers] + 1, 0)),
            rungs=changed(self.rungs, numbers, climbed),
            sizes=changed(self.sizes, numbers, [one.next_size for one in treated]),
            tokens=changed(self.tokens, numbers, [one.scored.group.lengths.sum() for one in treated]),
            tries=tries,
            rollouts=rollouts,
            lessons=self.lessons + taught,
            rollouts_to_last_lesson=rollouts if taught else self.rollouts_to_last_lesson,
        )

    def _usual_size(self, config: Config) -> int:
        """Of a prompt's first group: what half of those known need at most."""
        known = self.sizes[self.sizes > 0]
        return int(np.median(known)) if len(known) else config.sampling.num_generations

    def _longest_waiting(self, among: NDArray[np.bool_], n: int, order: NDArray[np.int64]) -> list[int]:
        """The `n` of the prompts `among` whose last rollout is longest ago, longest first and then by `order`,
        without sorting all of them: counting finds the step that the last of the `n` had."""
        if not n:
            return []
        waiting = np.cumsum(np.bincount(self.last[among] - NEVER))
        latest = int(np.searchsorted(waiting, n)) + NEVER
        earlier, ties = among & (self.last < latest), among & (self.last == latest)
        first = order[np.flatnonzero(earlier[order])]
        first = first[np.argsort(self.last[first], kind="stable")]
        others = order[np.flatnonzero(ties[order])[: n - len(first)]]
        chosen: list[int] = [*first.tolist(), *others.tolist()]
        return chosen
