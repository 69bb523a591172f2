"""The token tree gives the loss and the gradients of one padded row per sample: 1e-5 relative in float32."""

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from generation.groups import Completion, Group
from tests.equivalence.dense import (
    CONFIGS,
    OBJECTIVES,
    dense_loss,
    lessons,
    make_lesson,
    relative_gap,
    tiny_model,
    tree_loss,
)
from trainer.signal.advantages import Lesson
from trainer.update.forest import EMPTY_FOREST, Batch, pack
from trainer.update.policy import Policy

Trio = tuple[PreTrainedModel, PreTrainedModel, PreTrainedModel]

BETA = 0.3
OLD = 0.01
"""So close to the policy that some tokens' ratios are clipped and some are not."""
REFERENCE = 0.2
"""So far from the policy that the gradient of the KL term is no difference of nearly equal numbers, whose
float32 rounding would be measured instead of the tree."""
LOSS_ROUNDING = 5e-6
"""The samples' terms are of size 1 and more, and nearly cancel in the loss."""


def nudged(model: PreTrainedModel, name: str, size: float, dtype: torch.dtype) -> PreTrainedModel:
    """Another model at some distance from `model`."""
    other = tiny_model(name, dtype=dtype)
    other.load_state_dict(model.state_dict())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=dtype), alpha=size)
    return other


@pytest.fixture(scope="module", params=list(CONFIGS))
def trio(request: pytest.FixtureRequest) -> Trio:
    """The policy, its state before the first of several updates, and the reference."""
    model = tiny_model(request.param)
    old, reference = (nudged(model, request.param, size, torch.float32) for size in (OLD, REFERENCE))
    return model, old, reference


def gap(
    trio: Trio, some: list[Lesson], ranks: int, micro_batch_tokens: int, beta: float, name: str
) -> tuple[float, float, float]:
    """Tree's loss, dense loss, and the relative gap of the gradients."""
    model, old, reference = trio
    batch = pack(some, ranks, micro_batch_tokens)
    ours, our_gradients = tree_loss(
        Policy(model), batch, old=Policy(old), reference=Policy(reference) if beta else None, beta=beta, name=name
    )
    theirs, their_gradients = dense_loss(
        model, some, old=old, reference=reference if beta else None, beta=beta, name=name
    )
    return ours, theirs, relative_gap(our_gradients, their_gradients)


@settings(
    max_examples=25,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # shrinking takes minutes
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    some=lessons(),
    ranks=st.integers(1, 3),
    micro_batch_tokens=st.sampled_from([1, 8, 14, 30, 10_000]),
    name=st.sampled_from(list(OBJECTIVES)),
)
def test_random_forests(trio: Trio, some: list[Lesson], ranks: int, micro_batch_tokens: int, name: str) -> None:
    ours, theirs, gradient_gap = gap(trio, some, ranks, micro_batch_tokens, BETA, name)
    assert ours == pytest.approx(theirs, rel=1e-5, abs=LOSS_ROUNDING)
    if gradient_gap > 1e-5:  # about one draw in a thousand: the samples' gradients nearly cancel
        assert gradient_gap <= 5 * dense_rounding(trio, some, name)


def dense_rounding(trio: Trio, some: list[Lesson], name: str) -> float:
    """How far float32 takes the dense gradient itself from float64's."""
    single, double = (
        dense_loss(model, some, old=old, reference=reference, beta=BETA, name=name)[1]
        for model, old, reference in (trio, [copy.deepcopy(model).double() for model in trio])
    )
    return relative_gap(single, double)


REAL_SHAPE = [
    make_lesson([5, 6, 7, 8, 1], [([11, 2], 90, 1.0), ([12, 2], 30, -0.5), ([12, 13, 14, 15], 8, -1.0)]),
    make_lesson([5, 6, 7, 8, 3], [([12, 2], 100, 1.0), ([11, 2], 28, -0.5)], temperature=1.4),
    make_lesson([5, 6, 7, 8], [([1, 2], 1, -1.0), ([1, 11, 2], 1, 0.0), ([1], 126, 1.0)]),
]


@pytest.mark.parametrize("beta", [0.0, BETA])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective(trio: Trio, name: str, beta: float) -> None:
    ours, theirs, gradient_gap = gap(trio, REAL_SHAPE, 2, 12, beta, name)
    assert ours == pytest.approx(theirs, rel=1e-5, abs=LOSS_ROUNDING)
    assert gradient_gap <= 1e-5


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_an_earlier_policy_sampled(trio: Trio, name: str) -> None:
    """The engine reports the log-probabilities of a policy before the old one."""
    model, old, reference = trio
    earlier = copy.deepcopy(old)
    with torch.no_grad():
        for parameter in earlier.parameters():
            parameter.mul_(1.1)
    some = [sampled_by(earlier, lesson) for lesson in REAL_SHAPE]
    lags = torch.cat([moved(old, lesson) for lesson in some])
    assert lags.abs().mean() > 0.01 and lags.max() < math.log(3)
    how: Any = {"beta": BETA, "name": name, "lagged": True}
    for before in (model, old):  # the first and the second of several updates
        ours, our_gradients = tree_loss(
            Policy(model), pack(some, 2, 12), old=Policy(before), reference=Policy(reference), **how
        )
        theirs, their_gradients = dense_loss(model, some, old=before, reference=reference, **how)
        assert ours == pytest.approx(theirs, rel=1e-5, abs=LOSS_ROUNDING)
        assert relative_gap(our_gradients, their_gradients) <= 1e-5


def sampled_by(model: PreTrainedModel, lesson: Lesson) -> Lesson:
    """The lesson with the model's log-probabilities in the place of the engine's."""
    group = lesson.scored.group
    completions = tuple(replace(one, logprobs=logprobs_of(model, group, one).numpy()) for one in group.completions)
    return replace(lesson, scored=replace(lesson.scored, group=replace(group, completions=completions)))


def moved(model: PreTrainedModel, lesson: Lesson) -> torch.Tensor:
    """[tokens of all completions] what the model gives more than what sampled."""
    group = lesson.scored.group
    return torch.cat([logprobs_of(model, group, one) - torch.tensor(one.logprobs) for one in group.completions])


@torch.no_grad()
def logprobs_of(model: PreTrainedModel, group: Group, completion: Completion) -> torch.Tensor:
    """[tokens] of a completion, at the group's temperature."""
    prompt, tokens = list(group.prompt.token_ids), completion.token_ids.tolist()
    logits = model(input_ids=torch.tensor([prompt + tokens]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    logprobs: torch.Tensor = (logits / group.temperature).log_softmax(-1)[range(len(tokens)), tokens]
    return logprobs


def test_every_parameter_in_float64() -> None:
    """In float64 rounding hides nothing, not even in the parameter with the smallest gradient."""
    model = tiny_model("gemma2-window", dtype=torch.float64)
    old, reference = (nudged(model, "gemma2-window", size, torch.float64) for size in (OLD, REFERENCE))
    batch = pack(REAL_SHAPE, 2, 12)
    _, ours = tree_loss(Policy(model), batch, old=Policy(old), reference=Policy(reference), beta=BETA)
    _, theirs = dense_loss(model, REAL_SHAPE, old=old, reference=reference, beta=BETA)
    assert max(relative_gap([a], [b]) for a, b in zip(ours, theirs, strict=True)) <= 1e-6


@pytest.mark.parametrize("micro_batch_tokens", [1, 9, 12, 16, 100])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_any_split_gives_the_same_gradients(ranks: int, micro_batch_tokens: int) -> None:
    model = tiny_model("llama")
    old = nudged(model, "llama", OLD, torch.float32)

    def gradients(batch: Batch) -> list[torch.Tensor]:
        return tree_loss(Policy(model), batch, old=Policy(old), reference=Policy(old), beta=BETA)[1]

    split, whole = pack(REAL_SHAPE, ranks, micro_batch_tokens), pack(REAL_SHAPE, 1, 10_000)
    assert relative_gap(gradients(split), gradients(whole)) <= 1e-5


def test_the_empty_forest_gives_zero_gradients(trio: Trio) -> None:
    model, old, reference = trio
    empty = Batch(forests=((EMPTY_FOREST,),), num_samples=8, num_tokens=8, tree_tokens=1, dense_tokens=1)
    loss, gradients = tree_loss(Policy(model), empty, old=Policy(old), reference=Policy(reference), beta=BETA)
    assert loss == 0.0
    assert all((gradient == 0).all() for gradient in gradients)
