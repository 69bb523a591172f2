import pytest

from configs.schema import TrainingSettings
from tests.scored import scored
from trainer.scored import ScoredGroup
from trainer.signal import partial_credit
from trainer.signal.advantages import assign
from trainer.signal.overlong import soft_punished


def without_partial_credit(group: ScoredGroup, best_reward: float) -> ScoredGroup:
    """Beside a group that has none, and one without a right answer."""
    others = scored(("right", 4, 1.0)), scored(("near", 3, -0.1), ("far", 1, -0.9))
    before, changed, after = partial_credit.without_partial_credit([others[0], group, others[1]], best_reward)
    assert (before, after) == others
    return changed


def test_wrong_answers_beside_a_right_one_earn_their_mean() -> None:
    group = scored(("right", 1, 1.0), ("near", 3, -0.1), ("far", 1, -0.9))
    assert without_partial_credit(group, 1.0).rewards == pytest.approx([1.0, -0.3, -0.3])
    assert without_partial_credit(group, 1.0).reward_mean == pytest.approx(group.reward_mean)
    assert without_partial_credit(group, 1.0).group is group.group


def test_only_the_right_answer_gains() -> None:
    group = scored(("right", 1, 1.0), ("near", 127, -0.1), ("far", 128, -0.9))
    (plain,), (lesson,) = (assign([one], TrainingSettings()) for one in (group, without_partial_credit(group, 1.0)))
    assert 127 * plain.advantages[1] > 10 * plain.advantages[0] > 0  # what a near miss would gain
    # k right of n, all others alike: sqrt((n - k) / k) and -sqrt(k / (n - k))
    assert lesson.advantages == pytest.approx([255**0.5, -(255**-0.5), -(255**-0.5)], rel=2e-3)


@pytest.mark.parametrize("samples", [[("near", 3, -0.1), ("far", 1, -0.9)], [("right", 4, 1.0)]])
def test_groups_of_one_kind_stay_as_they_are(samples: list[tuple[str, int, float]]) -> None:
    group = scored(*samples)
    assert without_partial_credit(group, 1.0) is group


def test_a_right_answer_that_was_punished_for_its_length_stays_right() -> None:
    punished = soft_punished(scored(("right", 3, 1.0), ("near", 1, -0.1), ("far", 1, -0.3)), 2, 1)
    assert punished.rewards == pytest.approx([0.0, -1.1, -1.3])
    assert without_partial_credit(punished, 1.0).rewards == pytest.approx([0.0, -1.2, -1.2])


def test_the_best_reward_is_the_tasks_best() -> None:
    group = scored(("mine", 1, 2.0), ("near", 1, 1.9), ("far", 1, 0.1), best=2.0)
    assert without_partial_credit(group, best_reward=2.0).rewards == pytest.approx([2.0, 1.0, 1.0])
