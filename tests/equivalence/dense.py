"""What the tree is measured against, written without it: one padded row for every single sample."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    set_seed,
)
from transformers.models.auto import AutoModelForCausalLM

from configs.schema import TrainingSettings
from generation.groups import Completion, Group
from rewards.prompts import Prompt, Verdict
from trainer.scored import ScoredGroup
from trainer.signal.advantages import Lesson, assign
from trainer.update.forest import Batch
from trainer.update.objective import MicroBatch, Sizes, objective
from trainer.update.policy import Policy, completion_logprobs, policy_inputs

VOCABULARY = 97
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": None,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=8),
    "mistral-window": MistralConfig(**SIZES, sliding_window=4),
    "gemma2-window": Gemma2Config(
        **SIZES, head_dim=8, query_pre_attn_scalar=8, sliding_window=4, final_logit_softcapping=2.0
    ),
}
CLIP: dict[str, Any] = {"epsilon": 0.1, "epsilon_high": 0.15}
OBJECTIVES = {
    "grpo": TrainingSettings(**CLIP),
    "dr_grpo": TrainingSettings(loss_type="dr_grpo", **CLIP),
    "dapo": TrainingSettings(loss_type="dapo", vllm_importance_sampling_mode="token_mask", **CLIP),
    "gspo": TrainingSettings(
        importance_sampling_level="sequence", vllm_importance_sampling_mode="sequence_mask", **CLIP
    ),
    "cispo": TrainingSettings(loss_type="cispo", epsilon_high=0.15, vllm_importance_sampling_mode="off"),
    "rloo": TrainingSettings(loss_type="rloo", vllm_importance_sampling_mode="sequence_truncate", **CLIP),
}
"""Every objective, and every correction for the sampler."""

MAX_COMPLETION_LENGTH = 7

SAMPLED = -5.0
"""The sampler's log-probability of every token: some of the policy's are far above, some below."""


def tiny_model(name: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    set_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(CONFIGS[name], attn_implementation="sdpa", dtype=dtype)
    for parameter in model.parameters():  # far from the flat start, so that every token and position matters
        torch.nn.init.normal_(parameter, std=0.2)
    model.train()
    return model


def make_lesson(
    prompt: Sequence[int],
    completions: Sequence[tuple[Sequence[int], int, float]],
    temperature: float = 1.0,
) -> Lesson:
    """completions: (token ids, count, reward)."""
    group = Group(
        prompt=Prompt("p", ({"role": "user", "content": "?"},), {}, tuple(prompt), None),
        completions=tuple(
            Completion(
                np.array(tokens, np.int32), str(tokens), np.full(len(tokens), SAMPLED, np.float32), "stop", count
            )
            for tokens, count, _ in completions
        ),
        temperature=temperature,
        policy_version=0,
    )
    scored = ScoredGroup(group, tuple(Verdict(reward, "wrong") for _, _, reward in completions))
    return assign([scored], TrainingSettings())[0]


@st.composite
def lessons(draw: st.DrawFn) -> list[Lesson]:
    """1 to 4 groups over 3 tokens, so that prefixes collide in every way: prompts that are the same or a
    prefix of another, completions that are a prefix of another or (with another finish reason) the same, or
    go on like another group's prompt."""
    token = st.integers(0, 2)
    completion = st.tuples(
        st.lists(token, min_size=1, max_size=5), st.integers(1, 4), st.sampled_from([-1.0, 0.25, 1.0])
    )
    return draw(
        st.lists(
            st.builds(
                make_lesson,
                prompt=st.lists(token, min_size=1, max_size=6),
                completions=st.lists(completion, min_size=2, max_size=6),
                temperature=st.sampled_from([0.6, 1.0, 1.7]),
            ),
            min_size=1,
            max_size=4,
        )
    )


def tree_loss(
    policy: Policy,
    batch: Batch,
    *,
    old: Policy,
    reference: Policy | None,
    beta: float,
    name: str = "grpo",
    lagged: bool = False,
) -> tuple[float, list[Tensor]]:
    """Loss of `OBJECTIVES[name]` and gradients of all parameters, accumulated over ranks and micro-batches."""
    sizes = Sizes(batch.num_samples, batch.num_tokens, MAX_COMPLETION_LENGTH)
    training = OBJECTIVES[name].model_copy(update={"beta": beta})
    policy.zero_grad(set_to_none=True)
    total = 0.0
    for forest in (forest for rank in batch.forests for forest in rank):
        inputs = policy_inputs(forest, "cpu")
        edges, mask = torch.tensor(forest.completion_edges), torch.tensor(forest.mask)
        with torch.no_grad():
            old_logprobs = completion_logprobs(old(**inputs), edges, mask)
            ref_logprobs = completion_logprobs(reference(**inputs), edges, mask) if reference else None
        micro_batch = MicroBatch(
            logprobs=completion_logprobs(policy(**inputs), edges, mask),
            old_logprobs=old_logprobs,
            sampler_logprobs=torch.tensor(forest.sampler_logprobs),
            ref_logprobs=ref_logprobs,
            advantages=torch.tensor(forest.advantages),
            mask=mask,
            weights=torch.tensor(forest.weights),
        )
        result = objective(micro_batch, sizes, training, lagged)
        result.loss.backward()
        total += result.loss.item()
    return total, _gradients(policy.model)


def dense_loss(
    model: PreTrainedModel,
    lessons: Sequence[Lesson],
    *,
    old: PreTrainedModel,
    reference: PreTrainedModel | None,
    beta: float,
    name: str = "grpo",
    lagged: bool = False,
) -> tuple[float, list[Tensor]]:
    """The same by the textbook: every sample a right-padded row, all logits, one number at a time."""
    model.zero_grad(set_to_none=True)
    samples = [
        (list(lesson.scored.group.prompt.token_ids), completion, advantage, temperature)
        for lesson in lessons
        for temperature in [lesson.scored.group.temperature]
        for completion, advantage in zip(lesson.scored.group.completions, lesson.advantages.tolist(), strict=True)
        for _ in range(completion.count)
    ]
    width = max(len(prompt) + len(completion.token_ids) for prompt, completion, _, _ in samples)
    input_ids = torch.zeros(len(samples), width, dtype=torch.int64)
    attention_mask = torch.zeros_like(input_ids)
    for row, (prompt, completion, _, _) in enumerate(samples):
        sequence = prompt + completion.token_ids.tolist()
        input_ids[row, : len(sequence)] = torch.tensor(sequence)
        attention_mask[row, : len(sequence)] = 1
    temperatures = torch.tensor([temperature for *_, temperature in samples])[:, None, None]

    def logprobs(of: PreTrainedModel) -> Tensor:
        logits = of(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
        scaled = torch.log_softmax(logits / temperatures, dim=-1)
        return scaled[:, :-1].gather(2, input_ids[:, 1:, None])[..., 0]

    new = logprobs(model)
    with torch.no_grad():
        before = logprobs(old)
        frozen = logprobs(reference) if reference else None
    loss = new.new_zeros(())
    for row, (prompt, completion, advantage, _) in enumerate(samples):
        length = len(completion.token_ids)
        here = slice(len(prompt) - 1, len(prompt) + length - 1)
        correction = dense_correction(name, before[row, here], torch.tensor(completion.logprobs))
        surrogate = dense_surrogate(name, new[row, here], before[row, here], advantage) * correction
        gap = frozen[row, here] - new[row, here] if frozen is not None else torch.zeros(length)
        ratio = (new[row, here] - before[row, here]).exp()
        if name == "gspo":
            ratio = ratio.prod() ** (1 / length)
        if lagged:
            ratio = ratio * correction
        value = surrogate - beta * (gap.exp() - gap - 1) * ratio
        if name in ("grpo", "gspo"):
            loss = loss - value.mean() / len(samples)
        elif name == "dr_grpo":
            loss = loss - value.sum() / MAX_COMPLETION_LENGTH / len(samples)
        elif name == "rloo":  # its surrogate is of the whole completion, and not of every token
            loss = loss - (value.sum() - surrogate.sum() + surrogate.mean()) / len(samples)
        else:
            loss = loss - value.sum() / sum(len(completion.token_ids) for _, completion, _, _ in samples)
    loss.backward()
    return loss.item(), _gradients(model)


def dense_surrogate(name: str, new: Tensor, old: Tensor, advantage: float) -> Tensor:
    """[tokens] surrogate of one sample."""
    ratio = (new - old).exp()
    if name == "cispo":
        return ratio.detach().clamp(max=1 + CLIP["epsilon_high"]) * advantage * new
    if name == "gspo":
        ratio = ratio.prod() ** (1 / len(new)) * torch.ones(len(new))
    elif name == "rloo":
        ratio = ratio.prod() * torch.ones(len(new))
    if advantage > 0:
        return ratio.clamp(max=1 + CLIP["epsilon_high"]) * advantage
    return ratio.clamp(min=1 - CLIP["epsilon"]) * advantage


def dense_correction(name: str, old: Tensor, sampled: Tensor) -> Tensor:
    """[tokens] weight of one sample for the sampler, as `OBJECTIVES[name]` says."""
    drift = (old - sampled).exp()
    if name == "cispo":
        return torch.ones(len(old))
    if name == "gspo":
        return drift.prod() * (drift.prod() <= 3) * torch.ones(len(old))
    if name == "rloo":
        return drift.prod().clamp(max=3) * torch.ones(len(old))
    return drift * (drift <= 3) if name == "dapo" else drift.clamp(max=3)


def relative_gap(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Norm of the difference of all gradients, relative to the norm of `theirs`."""
    difference = torch.cat([(a - b).flatten() for a, b in zip(ours, theirs, strict=True)])
    norm = torch.cat([gradient.flatten() for gradient in theirs]).norm()
    return float(difference.norm() / norm.clamp(min=1e-12))


def _gradients(model: PreTrainedModel) -> list[Tensor]:
    """Of every parameter that is trained; one without a gradient fails."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    assert all(gradient is not None for gradient in gradients)
    return [gradient.clone() for gradient in gradients if gradient is not None]
