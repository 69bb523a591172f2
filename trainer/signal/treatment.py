"""Treatment: what each group of a step is trained on, if on anything."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from configs.schema import WithoutBest, reward_scale
from trainer.run import Run
from trainer.scored import ScoredGroup, prepare
from trainer.signal.advantages import Lesson, assign
from trainer.signal.form import Form, without_strangers
from trainer.signal.group_size import next_size
from trainer.signal.kinds import (
    MANY_MISSES,
    Kind,
    can_spread,
    classify,
    narrow,
    needs_spread,
    teaches,
)
from trainer.signal.partial_credit import without_partial_credit
from trainer.signal.rollout import Rollout
from trainer.signal.self_imitation import SelfImitation

Treatment = Literal["reward", "replay", "spread", "skip"]
"""Trained on by its rewards; by its rewards, beside an earlier right answer; to spread; not at all."""


@dataclass(frozen=True)
class Treated:
    """A scored group and what becomes of it.

    rollout: that it came of. scored: with all that was sampled, and nothing else. lesson: what it is trained on, None
        where the treatment is `skip`.
    can_spread: it is trained on to spread, now or if that is worth it later. narrow: the same samples would come
        again.
    missed: it holds no right answer.
    next_size: samples of the prompt's next group.
    """

    rollout: Rollout
    scored: ScoredGroup
    kind: Kind
    treatment: Treatment
    lesson: Lesson | None
    can_spread: bool
    narrow: bool
    missed: bool
    next_size: int

    @property
    def teaches(self) -> bool:
        """Whether it is trained on by rewards."""
        return self.treatment in ("reward", "replay")


def treat(
    run: Run, mode: WithoutBest, rollouts: Sequence[Rollout], scored: Sequence[ScoredGroup], memory: SelfImitation
) -> tuple[Treated, ...]:
    """What becomes of each of a step's groups. Pass all of them, see `advantages.assign`.

    mode: of groups without a right answer (`right_and_wrong.without_best`).
    """
    prepare(scored)
    form = Form.of([answer.text for answer in memory.answers.values()]) if mode == "spread" else None
    judged = [
        _judged(run, mode, rollout, group, memory, form) for rollout, group in zip(rollouts, scored, strict=True)
    ]
    of_all = reward_scale(run.config.training) == "batch"  # else those that are skipped change nothing for the others
    chosen = [index for index, one in enumerate(judged) if of_all or one.treatment != "skip"]
    lessons = dict(zip(chosen, _lessons(run, mode, [judged[index] for index in chosen], memory, form), strict=True))
    return tuple(
        one if one.treatment == "skip" else _with_lesson(one, lessons[index]) for index, one in enumerate(judged)
    )


def is_stuck(run: Run, mode: WithoutBest, rollout: Rollout) -> bool:
    """Whether a right answer to the prompt is no longer left to chance."""
    rescued = run.config.signal.rescue and mode != "train"
    return rescued and rollout.misses >= MANY_MISSES


def _judged(
    run: Run, mode: WithoutBest, rollout: Rollout, group: ScoredGroup, memory: SelfImitation, form: Form | None
) -> Treated:
    """What is meant to become of the group."""
    best = run.best_reward
    kind, missed = classify(group, best), not group.holds_best(best)
    explored = without_strangers(group, form) if missed else group
    spreads = can_spread(explored, kind, best, mode)
    treatment: Treatment = "skip"
    if missed and rollout.prompt in memory.answers and is_stuck(run, mode, rollout):
        treatment = "replay"
    elif spreads and needs_spread(explored, rollout.misses):
        treatment = "spread"
    elif teaches(group, kind, best, mode, run.config.sampling.temperature):
        treatment = "reward"
    return Treated(
        rollout=rollout,
        scored=group,
        kind=kind,
        treatment=treatment,
        lesson=None,
        can_spread=spreads,
        narrow=narrow(explored, kind, best),
        missed=missed,
        next_size=next_size(run.config, group, kind, best),
    )


def _lessons(
    run: Run, mode: WithoutBest, judged: Sequence[Treated], memory: SelfImitation, form: Form | None
) -> tuple[Lesson, ...]:
    """The groups as they are trained on, with advantages."""
    sampled = [one.scored for one in judged]
    shown = [_shown(one, memory, form) for one in judged]
    if mode != "train":
        shown = without_partial_credit(shown, run.best_reward)
    prepare([group for group, before in zip(shown, sampled, strict=True) if group is not before])
    return assign(shown, run.config.training, [one.treatment == "spread" for one in judged])


def _shown(judged: Treated, memory: SelfImitation, form: Form | None) -> ScoredGroup:
    if judged.treatment == "replay":
        return memory.shown(judged.rollout.prompt, judged.scored)
    return without_strangers(judged.scored, form) if judged.treatment == "spread" else judged.scored


def _with_lesson(judged: Treated, lesson: Lesson) -> Treated:
    """What becomes of a group that is trained on: a lesson whose advantages are all 0 is none."""
    useful = bool((lesson.advantages * lesson.weights).any())
    return replace(judged, lesson=lesson) if useful else replace(judged, treatment="skip")
