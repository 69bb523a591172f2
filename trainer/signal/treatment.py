"""Treatment: what each group of a step is trained on, if on anything."""

from collections.abc import Sequence
from dataclasses import dataclass

from configs.schema import Config, without_best
from trainer.scored import ScoredGroup
from trainer.signal.advantages import Lesson, assign
from trainer.signal.curriculum import Outcome, Visit
from trainer.signal.kinds import MANY_MISSES, Kind, classify, holds_best, narrow, spreads, teaches
from trainer.signal.partial_credit import levelled
from trainer.signal.self_imitation import Recall


@dataclass(frozen=True)
class Treatment:
    """What becomes of a scored group.

    recalled: a right answer of an earlier step is shown to it (`trainer.signal.self_imitation`).
    spread: it is trained on, and not by its rewards (`advantages.spread`).
    lesson: None where it is not trained on. outcome: what the curriculum learns of it.
    """

    scored: ScoredGroup
    kind: Kind
    recalled: bool
    spread: bool
    lesson: Lesson | None
    outcome: Outcome


def treat(
    config: Config, scored: Sequence[ScoredGroup], visits: Sequence[Visit], recall: Recall, best_reward: float
) -> tuple[Treatment, ...]:
    """The treatment of each of a step's groups. Pass all of them, see `advantages.assign`."""
    mode, base = without_best(config), config.sampling.temperature
    kinds = [classify(group, best_reward) for group in scored]
    recalling = [
        is_stuck(config, visit) and visit.prompt_id in recall.answers and not holds_best(group, best_reward)
        for group, visit in zip(scored, visits, strict=True)
    ]
    spreading = [
        not recalled and spreads(group, kind, best_reward, mode, visit.misses)
        for group, kind, visit, recalled in zip(scored, kinds, visits, recalling, strict=True)
    ]
    shown = [recall.shown(group) if recalled else group for group, recalled in zip(scored, recalling, strict=True)]
    if mode != "train":
        shown = [levelled(group, best_reward) for group in shown]
    lessons = assign(shown, config.training, spreading)

    def treatment(group: ScoredGroup, kind: Kind, recalled: bool, spread: bool, lesson: Lesson) -> Treatment:
        useful = bool(lesson.advantages[lesson.in_loss].any())
        taught = useful and (recalled or teaches(group, kind, best_reward, mode, base))
        spread = useful and spread
        return Treatment(
            scored=group,
            kind=kind,
            recalled=recalled,
            spread=spread,
            lesson=lesson if taught or spread else None,
            outcome=Outcome(
                kind=kind,
                teaches=taught,
                spreads=spreads(group, kind, best_reward, mode, MANY_MISSES),
                narrow=narrow(group, kind, best_reward),
                missed=not holds_best(group, best_reward),
            ),
        )

    return tuple(map(treatment, scored, kinds, recalling, spreading, lessons))


def is_stuck(config: Config, visit: Visit) -> bool:
    """Whether a right answer to the prompt is no longer left to chance."""
    return config.signal.rescue and without_best(config) != "train" and visit.misses >= MANY_MISSES
