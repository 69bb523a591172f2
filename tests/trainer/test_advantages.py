import numpy as np

from trainer.advantages import EXAMPLE_LESSON, assign
from trainer.scored import EXAMPLE_SCORED_GROUP


def test_worked_example() -> None:
    # 96 x 1.0 and 32 x -0.5: mean 0.625, std sqrt(0.75 * 0.375^2 + 0.25 * 1.125^2) = 0.649519
    lesson = assign(EXAMPLE_SCORED_GROUP)
    np.testing.assert_allclose(lesson.advantages, [0.375 / 0.649619, -1.125 / 0.649619], rtol=1e-6)
    np.testing.assert_allclose(lesson.advantages, EXAMPLE_LESSON.advantages, rtol=1e-5)
    assert lesson.advantages.dtype == np.float64


def test_same_as_over_explicit_samples() -> None:
    rewards = np.repeat(EXAMPLE_SCORED_GROUP.rewards, EXAMPLE_SCORED_GROUP.group.counts)
    explicit = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
    lesson = assign(EXAMPLE_SCORED_GROUP)
    np.testing.assert_allclose(np.repeat(lesson.advantages, EXAMPLE_SCORED_GROUP.group.counts), explicit)
    assert abs(np.average(lesson.advantages, weights=EXAMPLE_SCORED_GROUP.group.counts)) < 1e-12
