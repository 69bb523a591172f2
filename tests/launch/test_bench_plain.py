"""The plain way that benchmarks compare with is the same work, and none of it is shared."""

import copy
from functools import partial

import numpy as np
import pytest

from launch.bench.plain import dense, padded_logprobs
from tests.equivalence.dense import CONFIGS, make_lesson, relative_gap, tiny_model, tree_loss
from trainer.update.forest import Batch, pack
from trainer.update.policy import Policy

LESSONS = [
    make_lesson([5, 6, 7, 8, 1], [([11, 2], 9, 1.0), ([12, 2], 3, -0.5), ([12, 13, 14, 15], 2, -1.0)]),
    make_lesson([5, 6, 7, 8, 3, 4], [([12, 2], 5, 1.0), ([11], 2, -0.5)], temperature=1.4),
]
SAMPLES = 9 + 3 + 2 + 5 + 2


def plain(batch: Batch, micro_batch_tokens: int) -> Batch:
    forests = dense([forest for rank in batch.forests for forest in rank], micro_batch_tokens)
    return Batch(**{**vars(batch), "forests": (tuple(forests),)})


@pytest.mark.parametrize("name", CONFIGS)
def test_loss_and_gradients_equal_the_tree(name: str) -> None:
    model = tiny_model(name)
    old = Policy(copy.deepcopy(model))
    tree = pack(LESSONS, 1, 12)
    ours, our_gradients = tree_loss(Policy(model), tree, old=old, reference=old, beta=0.1)
    policy = Policy(model)
    policy.forward = partial(padded_logprobs, model)  # type: ignore[method-assign]
    theirs, their_gradients = tree_loss(policy, plain(tree, 30), old=old, reference=old, beta=0.1)
    assert theirs == pytest.approx(ours, rel=1e-5, abs=1e-6)
    assert relative_gap(our_gradients, their_gradients) <= 1e-5


def test_every_sample_has_a_row_of_its_own() -> None:
    (whole,) = plain(pack(LESSONS, 1, 4096), 4096).forests[0]
    assert len(whole.weights) == (whole.weights == 1).sum() == (whole.position_ids == 0).sum() == SAMPLES
    widths = [5 + 2 - 1] * 12 + [5 + 4 - 1] * 2 + [6 + 2 - 1] * 5 + [6 + 1 - 1] * 2
    assert len(whole.token_ids) == sum(widths)
    parts = plain(pack(LESSONS, 1, 4096), 3 * max(widths) + 1).forests[0]
    assert [len(part.weights) for part in parts] == [3] * (SAMPLES // 3)
    assert np.concatenate([part.advantages for part in parts]).tolist() == whole.advantages.tolist()
