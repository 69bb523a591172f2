from dataclasses import replace

import numpy as np

from generation.groups import EXAMPLE_GROUP
from trainer.scored import EXAMPLE_SCORED_GROUP
from trainer.signal.overlong import soft_overlong_punishment, soft_punished


def test_the_punishment_grows_evenly_over_the_last_tokens() -> None:
    # TRL's own example: 90 of 100 tokens with a cache of 20 is half way.
    lengths = np.array([1, 80, 81, 90, 100, 120])
    np.testing.assert_allclose(soft_overlong_punishment(lengths, 100, 20), [0, 0, -0.05, -0.5, -1, -1])


def test_every_reward_has_it_and_the_reasons_stay() -> None:
    longer = replace(EXAMPLE_GROUP.completions[1], token_ids=np.array([3706, 5, 2], np.int32))
    group = replace(EXAMPLE_GROUP, completions=(EXAMPLE_GROUP.completions[0], longer))
    punished = soft_punished(replace(EXAMPLE_SCORED_GROUP, group=group), max_completion_length=4, soft_punish_cache=2)
    assert punished.rewards.tolist() == [1.0, -0.5 - 0.5]
    assert [verdict.outcome for verdict in punished.verdicts] == ["correct", "wrong"]
    assert soft_punished(EXAMPLE_SCORED_GROUP, 4, None) is EXAMPLE_SCORED_GROUP
