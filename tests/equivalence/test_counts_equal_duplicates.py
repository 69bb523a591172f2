"""A completion with count k is k completions with count 1: advantages, loss and gradients."""

import numpy as np
import pytest
from hypothesis import Phase, given, settings

from tests.equivalence.dense import lessons, make_lesson, relative_gap, tiny_model, tree_loss
from trainer.signal.advantages import Lesson
from trainer.update.forest import pack
from trainer.update.policy import Policy


def spelled_out(lesson: Lesson) -> Lesson:
    """The same samples, each a completion of its own."""
    group, rewards = lesson.scored.group, lesson.scored.rewards.tolist()
    return make_lesson(
        group.prompt.token_ids,
        [
            (completion.token_ids.tolist(), 1, reward)
            for completion, reward in zip(group.completions, rewards, strict=True)
            for _ in range(completion.count)
        ],
        group.temperature,
    )


@settings(max_examples=30, derandomize=True, phases=[Phase.explicit, Phase.generate])
@given(some=lessons())
def test_counts_equal_duplicates(some: list[Lesson]) -> None:
    duplicates = [spelled_out(lesson) for lesson in some]
    for lesson, duplicate in zip(some, duplicates, strict=True):
        repeated = np.repeat(lesson.advantages, lesson.scored.group.counts)
        np.testing.assert_allclose(repeated, duplicate.advantages, atol=1e-9)

    counted, spelled = pack(some, 1, 10_000), pack(duplicates, 1, 10_000)
    assert (counted.num_samples, counted.num_tokens) == (spelled.num_samples, spelled.num_tokens)
    assert counted.dense_tokens == spelled.dense_tokens
    assert counted.tree_tokens == spelled.tree_tokens

    model, old = tiny_model("llama"), Policy(tiny_model("llama", seed=1))
    loss, gradients = tree_loss(Policy(model), counted, old=old, reference=old, beta=0.1)
    other_loss, other_gradients = tree_loss(Policy(model), spelled, old=old, reference=old, beta=0.1)
    assert loss == pytest.approx(other_loss, rel=1e-5, abs=1e-6)
    assert relative_gap(gradients, other_gradients) <= 1e-5
