"""The state of a run: all that it knows between two steps, and what a checkpoint holds of the controller."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.columns import Columns
from trainer.diagnosis.alarm import Alarm
from trainer.diagnosis.drift import Drift
from trainer.diagnosis.history import History, Step, of_group
from trainer.diagnosis.sentences import Diagnosis
from trainer.diagnosis.trial import Exhibit, Trial, exhibits
from trainer.evaluation import Evaluation
from trainer.happened import Happened
from trainer.jsonable import NotThisRecord, from_json, to_json
from trainer.run import Run
from trainer.scored import ScoredGroup
from trainer.signal.curriculum import Curriculum
from trainer.signal.right_and_wrong import Chosen, RewardsSeen, without_best
from trainer.signal.rollout import Sampled
from trainer.signal.self_imitation import SelfImitation
from trainer.signal.treatment import Treated

SCHEMA = 5
"""Of the JSON; raise it when a field of any record in the state changes."""


@dataclass(frozen=True)
class Rewards(Columns):
    """[prompts] mean reward of every prompt's first and latest group at `sampling.temperature`, evaluations included.

    known: whether there was one; the rewards are 0 where there was none.
    """

    known: NDArray[np.bool_]
    first: NDArray[np.float64]
    latest: NDArray[np.float64]

    def after(self, numbers: list[int], means: list[float]) -> "Rewards":
        """With these prompts' latest."""
        new = ~self.known[numbers]
        first = np.where(new, means, self.first[numbers])
        return self.with_rows(numbers, known=True, first=first, latest=means)

    def mean(self, column: NDArray[np.float64]) -> float:
        """Of the prompts that are known. column: `first` or `latest`."""
        return float(column.sum() / self.known.sum())

    def evaluated(self, evaluation: Evaluation) -> "Rewards":
        """With those of an evaluation, which is of the data set's first prompts. They come late for `first`: a prompt
        has been sampled in a step by then, or was evaluated before training."""
        means = [result.sampled_reward for result in evaluation.prompts]
        return self.after([*range(len(means))], means)


@dataclass(frozen=True)
class HeldOut:
    """Evaluations of prompts that are not trained on: before training, and the latest."""

    before: Evaluation
    latest: Evaluation


@dataclass(frozen=True)
class RunState:
    """step: steps done. policy_version: updates made. seconds: of the run so far.

    ahead: what the next step is made of, if it was sampled ahead, by the policy before the latest update.
    curriculum: which prompts to ask next. memory: right answers to show again. seen: which rewards there are.
    rewards, history, drift: what a diagnosis is made of. exhibits: what the reward function is tried on. trial: what
        came of that; None before, and again when a group learns after a silence.
    before, latest: evaluations of prompts that are trained on. held_out: of others; None if there are none.
    alarms: of each name the first. diagnosis: why the run cannot learn, if it is known.
    """

    step: int
    policy_version: int
    seconds: float
    ahead: tuple[Sampled, ...]
    curriculum: Curriculum
    memory: SelfImitation
    rewards: Rewards
    seen: RewardsSeen
    history: History
    drift: Drift
    exhibits: tuple[Exhibit, ...]
    trial: Trial | None
    before: Evaluation
    latest: Evaluation
    held_out: HeldOut | None
    alarms: tuple[Alarm, ...]
    diagnosis: Diagnosis | None

    @classmethod
    def start(
        cls,
        run: Run,
        before: Evaluation,
        held_out: Evaluation | None = None,
        sizes: Mapping[int, int] | None = None,
    ) -> "RunState":
        """Before the first step. before, held_out: the untrained policy. sizes: of the first groups of some
        prompts."""
        prompts = len(run.prompts)
        return cls(
            step=0,
            policy_version=0,
            seconds=0.0,
            ahead=(),
            curriculum=Curriculum.start(prompts, sizes),
            memory=SelfImitation(),
            rewards=Rewards.zeros(prompts).evaluated(before),
            seen=before.seen,
            history=History.start(prompts, run.config.sampling.temperature),
            drift=Drift(),
            exhibits=(),
            trial=None,
            before=before,
            latest=before,
            held_out=HeldOut(held_out, held_out) if held_out else None,
            alarms=(),
            diagnosis=None,
        )

    def with_groups(self, run: Run, treated: Sequence[Treated], scored: Sequence[ScoredGroup]) -> "RunState":
        """After a step's groups, which are all that the next rollouts are chosen by. See `Happened`."""
        numbers = [one.rollout.prompt for one in treated]
        return replace(
            self,
            step=self.step + 1,
            ahead=(),
            curriculum=self.curriculum.after(run.config, treated),
            memory=self.memory.after(numbers, [one.scored for one in treated], run.best_reward),
            seen=self.seen.after(scored, run.best_reward),
        )

    def after(self, run: Run, happened: Happened) -> "RunState":
        """After a step; evaluating and diagnosing come later."""
        numbers = happened.numbers
        base = run.config.sampling.temperature
        scored = happened.scored
        cold = [index for index, group in enumerate(scored) if group.group.temperature == base]
        known = self.with_groups(run, happened.treated, scored)
        rewards = self.rewards.after([numbers[i] for i in cold], [scored[i].reward_mean for i in cold])
        history = self.history.after(_seen(happened, rewards, self.history, known.curriculum.exhausted(run.config)))
        return replace(
            known,
            policy_version=self.policy_version + (happened.report is not None),
            seconds=happened.times.updated,
            rewards=rewards,
            history=history,
            drift=self.drift.after([numbers[i] for i in cold], [scored[i].group for i in cold]),
            exhibits=exhibits(numbers, scored, self.exhibits),
            trial=None if self.history.silent_steps and not history.silent_steps else self.trial,
        )

    def without_best(self, run: Run) -> Chosen:
        """What groups without a right answer are trained on, as far as the rewards tell so far."""
        return without_best(run.config, self.seen, run.best_reward)

    @property
    def telling(self) -> Evaluation:
        """The latest evaluation that tells most: of held-out prompts, if there are any."""
        return self.held_out.latest if self.held_out else self.latest

    def with_alarm(self, name: str, text: str) -> "RunState":
        """With the alarm, if it is the first of its name."""
        if any(alarm.name == name for alarm in self.alarms):
            return self
        return replace(self, alarms=(*self.alarms, Alarm(name, self.step, text)))

    def to_json(self) -> dict[str, Any]:
        """What `json.dumps` takes; all numbers are exact."""
        return {"schema": SCHEMA, **to_json(self)}

    @classmethod
    def from_json(cls, value: Any) -> "RunState":
        """The state that `to_json` was asked for. Raises NotThisRecord."""
        if not isinstance(value, dict) or value.get("schema") != SCHEMA:
            given = value.get("schema") if isinstance(value, dict) else None
            raise NotThisRecord(
                f"schema: {given!r} is not known; it must be {SCHEMA}. The state was written by another version of "
                "Cohort: use that one."
            )
        return from_json(cls, {name: one for name, one in value.items() if name != "schema"})


def _seen(happened: Happened, rewards: Rewards, history: History, exhausted: bool) -> Step:
    """The step, as a diagnosis remembers it."""
    groups = tuple(
        of_group(
            one.rollout.prompt, one.scored, one.kind, one.teaches, drift, with_answers=not history.rewards_differed
        )
        for one, drift in zip(happened.treated, happened.drifts, strict=True)
    )
    report, times = happened.report, happened.times
    return Step(
        groups=groups,
        updated=report is not None,
        reward_start=rewards.mean(rewards.first),
        reward_now=rewards.mean(rewards.latest),
        grad_norm=report.grad_norm if report else 0.0,
        kl=report.kl if report else 0.0,
        seconds=times.updated - times.start,
        seconds_total=times.updated,
        exhausted=exhausted,
    )
