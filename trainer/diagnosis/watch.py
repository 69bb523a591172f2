"""Watch: keeps what a diagnosis is made from, step by step."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from configs.schema import Config
from generation.groups import Group
from rewards.prompts import Prompt
from trainer.diagnosis import trial
from trainer.diagnosis.causes import SILENT_STEPS, Diagnosis, diagnose, why_silent
from trainer.diagnosis.drift import FirstVisits
from trainer.diagnosis.history import History, Step, of_group
from trainer.scored import ScoredGroup
from trainer.signal.kinds import Kind
from trainer.update.rank import RankReport


class Watch:
    """Of one run. prompts: the data set. score: asks the reward function, where there is reason to.
    rewards: prompt id -> mean reward before training, for those that were evaluated."""

    def __init__(
        self,
        config: Config,
        prompts: Sequence[Prompt],
        best_reward: float,
        score: trial.Score,
        rewards: Mapping[str, float],
    ) -> None:
        self._prompts = prompts
        self._score = score
        self._history = History(config, best_reward, len(prompts))
        self._first = FirstVisits()
        self._start = dict(rewards)
        self._steps: list[Sequence[ScoredGroup]] = []  # the last few
        self._held: trial.Trial | None = None

    def already_solved(self, groups: Sequence[ScoredGroup]) -> None:
        """Nothing was left to learn before the first update, as these groups show."""
        self._history = replace(self._history, reached=True)
        self._steps = [groups]

    def shifts(self, groups: Sequence[Group]) -> list[float | None]:
        """How far the policy has moved since the prompt of each group was first visited, in nats per completion; None
        for first visits and rescues. Remembers the first visits."""
        base = self._history.config.sampling.temperature
        shifts = []
        for group in groups:
            shifts.append(self._first.shift(group) if group.temperature == base else None)
            self._first = self._first.seen(group) if group.temperature == base else self._first
        return shifts

    def step(
        self,
        scored: Sequence[ScoredGroup],
        kinds: Sequence[Kind],
        learned: Collection[str],
        shifts: Sequence[float | None],
        report: RankReport | None,
        rewards: Mapping[str, float],
        exhausted: bool,
        seconds: tuple[float, float],
    ) -> None:
        """A step is done.

        learned: ids of the prompts whose groups were trained on by their rewards. rewards: prompt id -> mean of its
        latest group at `sampling.temperature`. seconds: of the step, and of the run at its end.
        """
        self._start = {**rewards, **self._start}  # a prompt that was not evaluated starts with its first visit
        groups = tuple(
            of_group(group, kind, group.group.prompt.id in learned, shift)
            for group, kind, shift in zip(scored, kinds, shifts, strict=True)
        )
        step = Step(
            groups=groups,
            updated=report is not None,
            reward_start=float(np.mean([self._start[name] for name in rewards])),
            reward_now=float(np.mean(list(rewards.values()))),
            grad_norm=report.grad_norm if report else 0.0,
            kl=report.kl if report else 0.0,
            seconds=seconds[0],
        )
        self._history = self._history.record(step, exhausted, seconds[1])
        self._steps = [*self._steps, scored][-SILENT_STEPS:]
        self._held = None if learned else self._held

    def diagnosis(self) -> Diagnosis | None:
        """See `diagnosis.diagnose`. Raises RewardError: a user's function fails on trial."""
        return diagnose(self._history, self._trial)

    def hindsight(self) -> Diagnosis | None:
        """At the end of a run: why no group ever learned; None if one did, if nothing was left to learn, or if there
        were too few steps to say."""
        past = self._history
        silent = SILENT_STEPS <= len(past.steps) == past.silent_steps and past.unsolved
        return why_silent(past, self._trial()) if silent else None

    def _trial(self) -> trial.Trial:
        """Held once for a silence: it may be dear."""
        if self._held is None:
            self._held = self._hold()
        return self._held

    def _hold(self) -> trial.Trial:
        groups = {group.group.prompt.id: group for step in self._steps for group in step}
        return trial.hold(list(groups.values()), self._prompts, self._history.best_reward, self._score)
