"""What a run keeps of its steps."""

from collections.abc import Sequence

from configs.schema import Config
from generation.groups import Group
from rewards.prompts import EXAMPLE_PROMPT, Verdict
from tests.scored import scored
from trainer.diagnosis.watch import Watch
from trainer.scored import ScoredGroup
from trainer.signal.kinds import Kind


def test_one_trial_is_held_for_a_silence_and_another_for_the_next() -> None:
    asked: list[int] = []

    def score(groups: Sequence[Group]) -> tuple[ScoredGroup, ...]:
        asked.append(len(groups))
        return tuple(ScoredGroup(g, tuple(Verdict(-0.5, "wrong") for _ in g.completions)) for g in groups)

    config = Config.model_validate({"task": {"name": "comparison"}, "run": {"max_steps": 50}})
    watch = Watch(config, [EXAMPLE_PROMPT], 1.0, score, {})

    def trials(*steps: tuple[Kind, ScoredGroup]) -> int:
        """Times the reward function was asked, in steps with nothing left to try."""
        before = len(asked)
        for kind, group in steps:
            learned = {EXAMPLE_PROMPT.id} if kind == "learning" else set()
            watch.step([group], [kind], learned, [None], None, {EXAMPLE_PROMPT.id: -0.5}, True, (1.0, 1.0))
            watch.diagnosis()
        return len(asked) - before

    silent: tuple[Kind, ScoredGroup] = ("floor", scored(("3", 64, -0.5), ("4", 64, -0.5)))
    once = trials(silent, silent, silent)
    assert once > 0
    assert trials(silent, silent) == 0
    assert trials(("learning", scored(("3", 96, -0.5), ("5", 32, 1.0)))) == 0
    assert trials(silent, silent, silent) == once
