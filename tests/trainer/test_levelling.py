import numpy as np
import pytest

from configs.schema import TrainingSettings
from generation.groups import Completion, Group
from rewards.prompts import EXAMPLE_PROMPT, Verdict
from trainer.advantages import assign
from trainer.levelling import levelled
from trainer.scored import ScoredGroup


def scored(*samples: tuple[str, int, float]) -> ScoredGroup:
    """samples: (text, count, reward)."""
    completions = tuple(
        Completion(np.array([token], np.int32), text, np.array([-1.0], np.float32), "stop", count)
        for token, (text, count, _) in enumerate(samples)
    )
    verdicts = tuple(Verdict(reward, "correct" if text == "right" else "wrong") for text, _, reward in samples)
    return ScoredGroup(Group(EXAMPLE_PROMPT, completions, 1.0, 0), verdicts)


def test_wrong_answers_beside_a_right_one_earn_their_mean() -> None:
    group = scored(("right", 1, 1.0), ("near", 3, -0.1), ("far", 1, -0.9))
    assert levelled(group, 1.0).rewards == pytest.approx([1.0, -0.3, -0.3])
    assert levelled(group, 1.0).reward_mean == pytest.approx(group.reward_mean)
    assert levelled(group, 1.0).group is group.group


def test_only_the_right_answer_gains() -> None:
    group = scored(("right", 1, 1.0), ("near", 127, -0.1), ("far", 128, -0.9))
    (plain,), (lesson,) = (assign([one], TrainingSettings()) for one in (group, levelled(group, 1.0)))
    assert 127 * plain.advantages[1] > 10 * plain.advantages[0] > 0  # what a near miss would gain
    # k right of n, all others alike: sqrt((n - k) / k) and -sqrt(k / (n - k))
    assert lesson.advantages == pytest.approx([255**0.5, -(255**-0.5), -(255**-0.5)], rel=2e-3)


@pytest.mark.parametrize(
    "samples",
    [
        [("near", 3, -0.1), ("far", 1, -0.9)],
        [("right", 3, 1.0), ("right", 1, 0.4)],  # punished for its length
        [("right", 4, 1.0)],
    ],
)
def test_other_groups_stay_as_they_are(samples: list[tuple[str, int, float]]) -> None:
    group = scored(*samples)
    assert levelled(group, 1.0) is group


def test_the_best_reward_is_right_whatever_the_reason() -> None:
    group = scored(("mine", 1, 2.0), ("near", 1, 1.9), ("far", 1, 0.1))
    assert levelled(group, best_reward=2.0).rewards == pytest.approx([2.0, 1.0, 1.0])
