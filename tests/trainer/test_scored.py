import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.prompts import Verdict
from tests.scored import scored
from trainer.scored import ScoredGroup, normalized, prepare, segment_sums

REWARDS = st.sampled_from([1.0, -0.5, -0.46, 0.1, 1 / 3, -1.0])
SAMPLES = st.lists(st.tuples(st.integers(1, 99), REWARDS), min_size=1, max_size=40)
PROPERTIES = ("reward_low", "reward_high", "reward_mean", "reward_std", "samples")


@settings(max_examples=60)
@given(st.lists(SAMPLES, min_size=1, max_size=9))
def test_many_groups_at_once_are_as_each_alone(groups: list[list[tuple[int, float]]]) -> None:
    """To the bit: the rewards that files hold do not depend on how they were made."""

    def made() -> list[ScoredGroup]:
        return [scored(*((f"w{n}", count, reward) for n, (count, reward) in enumerate(one))) for one in groups]

    together, alone = made(), made()
    prepare(together)
    for one, other in zip(together, alone, strict=True):
        assert [getattr(one, name) for name in PROPERTIES] == [getattr(other, name) for name in PROPERTIES]
        assert one.rewards.tolist() == other.rewards.tolist() and one.rewards.dtype == other.rewards.dtype
        assert one.outcomes.tolist() == other.outcomes.tolist() and one.outcomes.dtype == other.outcomes.dtype
        assert one.group.counts.tolist() == other.group.counts.tolist()
        assert one.group.num_generations == other.group.num_generations


def test_sums_of_segments_are_those_of_each() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 300, 50)
    values = rng.normal(size=lengths.sum())
    ends = np.cumsum(lengths)
    each = [values[end - length : end].sum() for end, length in zip(ends, lengths, strict=True)]
    assert segment_sums(values, lengths).tolist() == each


def test_an_answer_that_was_punished_for_its_length_is_still_right() -> None:
    group = scored(("Yes", 3, 1.0), ("No", 1, -0.5))
    punished = ScoredGroup(group.group, (Verdict(0.5, "correct"), Verdict(-1.0, "wrong")))
    assert punished.right(1.0).tolist() == [True, False] and punished.holds_best(1.0)


def test_answers_are_letters_and_digits() -> None:
    assert normalized("No.") == normalized(" no") == "no"
    long = "No, " * 99
    assert normalized(long) == "no" * 99
