"""The engine, with the real vLLM in this process, against transformers.

An engine takes seconds to start and two in one process disturb each other, so the tests share one: it forks and has
tied embeddings. The last test runs them all again in a process with another engine.
"""

import copy
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import LlamaForCausalLM

from configs.schema import SamplingSettings
from generation import drawing, forking, handover, reloading
from generation.buckets import pack
from generation.checksum import checksum
from generation.engine import Engine, EngineError, SampleRequest, seed_of
from generation.groups import Completion, Group
from launch.hardware import has_gpu
from rewards.prompts import Prompt
from tests.generation.own_process import undone
from tests.generation.test_drawing import allowed
from tests.generation.tiny_engine import tiny_spec
from tests.statistics import SUSPICIOUS, surprise
from tests.tiny import CONTEXT, END, VOCABULARY, load_tiny_model, make_tiny_model, random_prompt

pytestmark = pytest.mark.timeout(240)

ENGINE = os.environ.get("COHORT_TEST_ENGINE")
"""`stock`: the engine draws every sample by itself, and has a head of its own. `cramped`: it has memory for eleven
blocks only, so that requests push each other out of it, and computes prompts 16 tokens at a time."""

CRAMPED: dict[str, Any] = {"num_gpu_blocks_override": 12, "max_num_seqs": 16, "max_num_batched_tokens": 16}

forks = pytest.mark.skipif(ENGINE == "stock", reason="this engine does not fork")

ROUNDING = 0.06 if has_gpu() else 1e-4
"""Of log-probabilities: a GPU multiplies float32 as TF32, of 10 bits."""

END_ID = VOCABULARY.index(END)
PROMPT = random_prompt(9)


class Pair:
    """An engine and what transformers makes of the weights that it should hold."""

    def __init__(self, folder: str, **engine: Any) -> None:
        self.reference = load_tiny_model(folder)
        self.engine = Engine(tiny_spec(folder, **engine))

    def sample(self, *requests: SampleRequest, **sampling: Any) -> tuple[Group, ...]:
        """With sampling settings other than those that the engine was started with: it reads them anew each time."""
        engine = copy.copy(self.engine)
        engine._spec = replace(engine._spec, sampling=SamplingSettings(**{"max_completion_length": 4} | sampling))
        return engine.sample(requests)

    def sync_weights(self, model: LlamaForCausalLM, version: int, bucket_bytes: int = 50_000) -> None:
        """All of `model`'s weights, as the trainer sends them: in memory that then holds the next bucket."""
        weights = list(model.named_parameters())
        self.engine.start_weight_update()
        for data, layout in pack(weights, bucket_bytes):
            bucket = tuple(array.copy() for array in data)
            self.engine.update_weights({"data": bucket, "layout": layout})
            for array in bucket:
                array.fill(0xFF)  # not a number, in every format
        self.engine.finish_weight_update(str(version))
        self.engine.confirm(version, checksum(weights))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = make_tiny_model(tmp_path_factory.mktemp("model"), tied=ENGINE != "stock")
    with undone():
        yield Pair(folder, fork="off" if ENGINE == "stock" else "auto", vllm=CRAMPED if ENGINE == "cramped" else {})


def ask(prompt: Prompt = PROMPT, num_generations: int = 16, temperature: float = 1.0, seed: int = 1) -> SampleRequest:
    return SampleRequest(prompt, num_generations, temperature, seed_of(seed, prompt.id))


def said(group: Group) -> dict[tuple[int, ...], int]:
    """Token ids -> count."""
    return {tuple(c.token_ids.tolist()): c.count for c in group.completions}


def log_probabilities(
    model: LlamaForCausalLM, prompt: Prompt, continuations: Sequence[Sequence[int]], temperature: float
) -> NDArray[np.float64]:
    """[continuations, position + 1, vocabulary] of the token after each prefix of each continuation. Transformers,
    padded on the right."""
    longest = max(len(tokens) for tokens in continuations)
    rows = [[*prompt.token_ids, *tokens, *[0] * (longest - len(tokens))] for tokens in continuations]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor(rows)).logits[:, len(prompt.token_ids) - 1 :]
    scaled: NDArray[np.float64] = (logits.double() / temperature).log_softmax(-1).numpy()
    return scaled


def gap(model: LlamaForCausalLM, group: Group, temperature: float | None = None) -> float:
    """Largest difference between the group's log-probabilities and transformers'."""
    tokens = [completion.token_ids.tolist() for completion in group.completions]
    expected = log_probabilities(model, group.prompt, tokens, temperature or group.temperature)
    return max(
        float(np.abs(completion.logprobs - row[range(len(ids)), ids]).max())
        for completion, row, ids in zip(group.completions, expected, tokens, strict=True)
    )


# Groups


def test_counts_sum_to_num_generations(pair: Pair) -> None:
    requests = [
        ask(random_prompt(length, seed), n, temperature, seed)
        for seed, (length, n, temperature) in enumerate(
            [(1, 1, 1.0), (40, 2, 0.3), (33, 7, 2.0), (40, 64, 0.1), (5, 256, 1.3)]
        )
    ]
    groups = pair.sample(*requests)
    assert [group.prompt for group in groups] == [request.prompt for request in requests]
    assert [group.temperature for group in groups] == [request.temperature for request in requests]
    assert [group.num_generations for group in groups] == [1, 2, 7, 64, 256]
    for group in groups:
        assert len(said(group)) == len(group.completions)
        assert all(1 <= len(c.token_ids) <= 4 for c in group.completions)
        assert group.policy_version == pair.engine.policy_version


def test_a_seed_gives_one_group_whatever_else_is_sampled(pair: Pair) -> None:
    others = [ask(random_prompt(20, index), seed=index) for index in range(3)]
    (alone,), (*_, among) = pair.sample(ask()), pair.sample(*others, ask())
    assert said(alone) == said(among)


def test_seeds_and_prompts_give_other_groups(pair: Pair) -> None:
    groups = pair.sample(ask(seed=1), ask(seed=2), ask(random_prompt(9, 1), seed=1))
    assert len({frozenset(said(group).items()) for group in groups}) == 3


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_logprobs_are_of_the_temperature_sampled_at(pair: Pair, temperature: float) -> None:
    (group,) = pair.sample(ask(num_generations=100, temperature=temperature), max_completion_length=6)
    assert len(group.completions) > 5
    assert gap(pair.reference, group) < ROUNDING
    assert gap(pair.reference, group, 1.1 * temperature) > 1e-2


def test_logprobs_around_the_block_size(pair: Pair) -> None:
    """vLLM shares full blocks of 32 tokens, and forks are handed the rest."""
    requests = [ask(random_prompt(length), 12, 1.5) for length in (1, 31, 32, 33, 63, 64, 65)]
    for group in pair.sample(*requests, max_completion_length=40):
        assert max(len(c.token_ids) for c in group.completions) == 40
        assert gap(pair.reference, group) < ROUNDING


def test_logprobs_are_the_same_when_a_prompt_is_asked_again(pair: Pair) -> None:
    """From cached prefixes then, of this prompt and of those that begin alike."""
    longer = random_prompt(70)
    shorter = replace(longer, token_ids=longer.token_ids[:50])
    for prompt in (longer, longer, shorter):
        (group,) = pair.sample(ask(prompt))
        assert gap(pair.reference, group) < ROUNDING


@forks
@pytest.mark.skipif(has_gpu(), reason="on a GPU nothing is handed over")
def test_what_forks_are_handed_matters(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the tests above would not test it."""
    copies, copy = [], handover.copy_partial_block

    def zeroed(ticket: int, length: int) -> handover.PartialBlock | None:
        found = copy(ticket, length)
        copies.append(length)
        return found and replace(found, layers=tuple(torch.zeros_like(layer) for layer in found.layers))

    monkeypatch.setattr(handover, "copy_partial_block", zeroed)
    (group,) = pair.sample(ask(random_prompt(41), 50))
    assert copies
    assert gap(pair.reference, group) > 1e-2


@forks
def test_a_group_is_there_as_soon_as_it_is_whole(pair: Pair) -> None:
    requests = [ask(random_prompt(9, seed), 1, 2.0, seed) for seed in range(12)]
    whole = pair.sample(*requests, max_completion_length=40)
    engine = copy.copy(pair.engine)
    engine._spec = replace(engine._spec, sampling=SamplingSettings(max_completion_length=40))
    places, early = [], 0
    for place, group in engine.stream(requests):
        places.append(place)
        early += pair.engine._llm.llm_engine.has_unfinished_requests()
        assert said(group) == said(whole[place])
    assert sorted(places) == [*range(12)]
    assert 0 < early < 12
    lengths = [len(whole[place].completions[0].token_ids) for place in places]
    assert lengths == sorted(lengths)


@forks
def test_nothing_is_left_behind(pair: Pair) -> None:
    pair.sample(ask(num_generations=64))
    assert not handover.BRANCHES
    assert not pair.engine._llm.llm_engine.has_unfinished_requests()


@forks
def test_a_failure_while_sampling_leaves_a_clean_engine(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(forking.Branch, "children", lambda *_: (_ for _ in ()).throw(RuntimeError("broken")))
        with pytest.raises(RuntimeError, match="broken"):
            pair.sample(ask(), ask(seed=2))
    assert not handover.BRANCHES
    assert not pair.engine._llm.llm_engine.has_unfinished_requests()
    (group,) = pair.sample(ask())
    assert gap(pair.reference, group) < ROUNDING


# The distribution


def surprises(pair: Pair, num_generations: int, groups: int, temperature: float) -> tuple[float, float]:
    """How far first tokens, and first two tokens, of many groups are from transformers' probabilities."""
    requests = [ask(num_generations=num_generations, temperature=temperature, seed=seed) for seed in range(groups)]
    total: Counter[tuple[int, ...]] = Counter()
    for group in pair.sample(*requests, max_completion_length=2):
        total.update(said(group))
    every = range(len(VOCABULARY))
    table = log_probabilities(pair.reference, PROMPT, [[token] for token in every], temperature)
    first = np.exp(table[0, 0])
    pairs: dict[tuple[int, ...], float] = {
        **{(a, b): first[a] * np.exp(table[a, 1, b]) for a in every for b in every if a != END_ID},
        (END_ID,): first[END_ID],
    }
    assert set(total) <= set(pairs)
    firsts: Counter[int] = Counter()
    for tokens, count in total.items():
        firsts[tokens[0]] += count
    return (
        surprise([firsts[token] for token in every], first),
        surprise([total[tokens] for tokens in pairs], list(pairs.values())),
    )


@pytest.mark.parametrize(
    ("num_generations", "groups", "temperature"), [(256, 24, 1.0), (10_000, 1, 1.7), (2, 500, 0.6)]
)
def test_samples_are_distributed_as_the_model_says(
    pair: Pair, num_generations: int, groups: int, temperature: float
) -> None:
    assert np.abs(surprises(pair, num_generations, groups, temperature)).max() < SUSPICIOUS


def law(pair: Pair, truncation: drawing.Truncation, length: int) -> dict[tuple[int, ...], float]:
    """The probability of every whole completion of at most so many tokens, by transformers and the definitions."""
    found: dict[tuple[int, ...], float] = {}
    open_ended: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(length):
        after = log_probabilities(pair.reference, PROMPT, list(open_ended), 1.0)[:, -1]
        probabilities = [np.exp(row) for row in after]
        longer = {
            (*tokens, token): before * row[token] / sum(row[other] for other in allowed(row, truncation))
            for (tokens, before), row in zip(open_ended.items(), probabilities, strict=True)
            for token in allowed(row, truncation)
        }
        found |= {tokens: weight for tokens, weight in longer.items() if tokens[-1] == END_ID}
        open_ended = {tokens: weight for tokens, weight in longer.items() if tokens[-1] != END_ID}
    return found | open_ended


@pytest.mark.skipif(has_gpu(), reason="such rounding moves the border between what may be drawn and what may not")
@pytest.mark.parametrize("num_generations", [1, 40])
@pytest.mark.parametrize("setting", [{"top_k": 4}, {"top_p": 0.3}, {"min_p": 0.3}, {"top_k": 5, "top_p": 0.7}])
def test_whole_completions_follow_their_law_wherever_branches_turn_lone(
    pair: Pair, setting: dict[str, Any], num_generations: int
) -> None:
    expected = law(pair, drawing.Truncation(**setting), 3)
    groups = 1600 // num_generations
    requests = [ask(num_generations=num_generations, seed=seed) for seed in range(groups)]
    total: Counter[tuple[int, ...]] = Counter()
    for group in pair.sample(*requests, max_completion_length=3, **setting):
        total.update(said(group))
    assert set(total) <= set(expected)
    assert abs(surprise([total[tokens] for tokens in expected], list(expected.values()))) < SUSPICIOUS


FLATTER = 0.97


def flattened(logits: Tensor, *arguments: Any) -> drawing.Draws:
    return UNBIASED(logits * FLATTER, *arguments)


def alike(
    logits: Tensor, temperatures: Any, truncation: Any, uniforms: NDArray[np.float64], counts: NDArray[np.int64]
) -> drawing.Draws:
    """The same random numbers in every group."""
    same = np.concatenate([np.random.default_rng(0).random(count) for count in counts])
    return UNBIASED(logits, temperatures, truncation, same, counts)


UNBIASED = drawing.draw


@forks
@pytest.mark.parametrize(("biased", "num_generations", "groups"), [(flattened, 100_000, 1), (alike, 256, 24)])
def test_a_biased_draw_is_caught(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, biased: Any, num_generations: int, groups: int
) -> None:
    assert np.abs(surprises(pair, num_generations, groups, 1.0)).max() < SUSPICIOUS
    monkeypatch.setattr(forking, "draw", biased)
    assert np.abs(surprises(pair, num_generations, groups, 1.0)).max() > SUSPICIOUS


def test_the_bias_that_is_caught_is_below_2_percent(pair: Pair) -> None:
    """Of all probability that much is elsewhere."""
    logits = log_probabilities(pair.reference, PROMPT, [[END_ID]], 1.0)[0, 0]
    flatter = logits * FLATTER
    moved = np.abs(np.exp(logits) - np.exp(flatter) / np.exp(flatter).sum()).sum() / 2
    assert 0.001 < moved < 0.02


# Memory


def test_more_prompt_tokens_than_vllm_computes_in_one_step(pair: Pair) -> None:
    groups = pair.sample(*(ask(random_prompt(CONTEXT - 20, seed), 64, seed=seed) for seed in range(4)))
    for group in groups:
        assert group.num_generations == 64
        assert gap(pair.reference, group) < ROUNDING


@pytest.mark.skipif(ENGINE != "cramped", reason="this engine has room")
def test_requests_push_each_other_out_and_prompts_come_in_parts(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the other tests of the cramped engine would test neither. What was sampled is what the model says."""
    core: Any = pair.engine._llm.llm_engine.engine_core
    scheduler = core.engine_core.scheduler
    preempt, schedule = scheduler._preempt_request, scheduler.schedule
    preempted, tokens = [], []

    def noted_preempt(request: Any, *arguments: Any, **more: Any) -> Any:
        preempted.append(request.request_id)
        return preempt(request, *arguments, **more)

    def noted_schedule(*arguments: Any) -> Any:
        step = schedule(*arguments)
        tokens.append(step.total_num_scheduled_tokens)
        return step

    monkeypatch.setattr(scheduler, "_preempt_request", noted_preempt)
    monkeypatch.setattr(scheduler, "schedule", noted_schedule)
    requests = [ask(random_prompt(length), 64, seed=length) for length in (28, 29, 30, 31, 40)]
    together = pair.sample(*requests, max_completion_length=30)
    assert preempted
    assert max(tokens) <= CRAMPED["max_num_batched_tokens"] < len(requests[0].prompt.token_ids)
    for request, group in zip(requests, together, strict=True):
        assert group.num_generations == 64
        assert gap(pair.reference, group) < ROUNDING
        (alone,) = pair.sample(request, max_completion_length=30)
        assert said(alone) == said(group)


# Where completions end, and which tokens they are made of


def cut(group: Group, ends: set[int], length: int) -> dict[tuple[int, ...], int]:
    """What the group would have said, had completions ended at `ends` or after `length` tokens."""
    shorter: Counter[tuple[int, ...]] = Counter()
    for tokens, count in said(group).items():
        end = next((i + 1 for i, token in enumerate(tokens) if token in ends), length)
        shorter[tokens[: min(end, length)]] += count
    return dict(shorter)


def test_end_of_turn_stops_and_the_limit_cuts(pair: Pair) -> None:
    request = ask(num_generations=256, temperature=1.5)
    (long,) = pair.sample(request, max_completion_length=5)
    assert any(completion.token_ids[-1] == END_ID for completion in long.completions)
    for completion in long.completions:
        tokens = completion.token_ids.tolist()
        assert END_ID not in tokens[:-1]
        assert completion.finish_reason == ("stop" if tokens[-1] == END_ID else "length")
        assert len(tokens) == 5 or tokens[-1] == END_ID
        words = [VOCABULARY[token] for token in tokens if not VOCABULARY[token].startswith("<")]
        assert completion.text.split() == words
    for length in (1, 2):
        (short,) = pair.sample(request, max_completion_length=length)
        assert said(short) == cut(long, {END_ID}, length)


def test_stop_strings_end_completions(pair: Pair) -> None:
    request = ask(num_generations=256, temperature=1.5)
    (free,) = pair.sample(request, max_completion_length=5)
    common = Counter[str]()
    for completion in free.completions:
        common.update({word: completion.count for word in set(completion.text.split()) if len(word) > 2})
    first, second = (word for word, _ in common.most_common(2))
    ends = {token for token, word in enumerate(VOCABULARY) if first in word or second in word}
    (group,) = pair.sample(request, max_completion_length=5, stop=(first, second))
    assert said(group) == cut(free, ends | {END_ID}, 5)
    stopped = [c for c in group.completions if c.token_ids[-1] in ends]
    assert stopped
    for completion in stopped:
        assert completion.finish_reason == "stop"
        assert first not in completion.text and second not in completion.text
    assert gap(pair.reference, group) < ROUNDING


def test_a_stop_string_may_begin_in_what_a_branch_inherited(pair: Pair) -> None:
    request = ask(num_generations=256, temperature=1.5)
    (free,) = pair.sample(request, max_completion_length=6)
    spelt = [(text.split(), count) for text, count in ((c.text, c.count) for c in free.completions)]
    common = Counter[str]()
    for words, count in spelt:
        common.update({" ".join(words[i : i + 3]): count for i in range(len(words) - 2)})
    (stop,) = (words for words, _ in common.most_common(1))
    expected: Counter[str] = Counter()
    for completion in free.completions:
        expected[completion.text.partition(stop)[0].strip()] += completion.count
    (group,) = pair.sample(request, max_completion_length=6, stop=(stop,))
    found: Counter[str] = Counter()
    for completion in group.completions:
        found[completion.text.strip()] += completion.count
    assert found == expected
    assert any(c.finish_reason == "stop" and c.token_ids[-1] != END_ID for c in group.completions)


def greedy(model: LlamaForCausalLM, prompt: Prompt, length: int) -> tuple[int, ...]:
    tokens: list[int] = []
    while len(tokens) < length and (not tokens or tokens[-1] != END_ID):
        tokens.append(int(log_probabilities(model, prompt, [tokens], 1.0)[0, -1].argmax()))
    return tuple(tokens)


def test_temperature_0_is_greedy(pair: Pair) -> None:
    prompts = [random_prompt(length) for length in (3, 30, 40, 64)]
    groups = pair.sample(
        *(ask(prompt, 1, 0.0, seed) for seed, prompt in enumerate(prompts)), max_completion_length=12
    )
    for prompt, group in zip(prompts, groups, strict=True):
        assert said(group) == {greedy(pair.reference, prompt, 12): 1}
        assert gap(pair.reference, group, 1.0) < ROUNDING


def test_top_k_1_is_greedy_at_any_temperature(pair: Pair) -> None:
    (group,) = pair.sample(ask(num_generations=40, temperature=2.0), top_k=1, max_completion_length=12)
    assert said(group) == {greedy(pair.reference, PROMPT, 12): 40}


@pytest.mark.parametrize("setting", [{"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.3}, {"top_k": 5, "top_p": 0.6}])
def test_truncation_leaves_out_unlikely_tokens(pair: Pair, setting: dict[str, Any]) -> None:
    request = ask(num_generations=256, temperature=1.2)
    (free,), (group,) = pair.sample(request), pair.sample(request, **setting)
    assert unlikely(pair.reference, group, setting) == 0
    assert unlikely(pair.reference, free, setting) > 0
    assert len(group.completions) > 1
    if ENGINE != "stock":  # vLLM's are of the distribution after truncation
        assert gap(pair.reference, group) < ROUNDING


@forks
def test_min_p_of_one_request_is_of_no_other(pair: Pair) -> None:
    request = ask(num_generations=256, temperature=1.2)
    group, free = pair.sample(replace(request, min_p=0.3), request)
    assert unlikely(pair.reference, group, {"min_p": 0.3}) == 0
    assert unlikely(pair.reference, free, {"min_p": 0.3}) > 0
    (stricter,) = pair.sample(replace(request, min_p=0.1), min_p=0.3)
    assert unlikely(pair.reference, stricter, {"min_p": 0.3}) == 0


@pytest.mark.skipif(ENGINE != "stock", reason="this engine forks")
def test_min_p_of_a_request_does_not_spoil_log_probabilities(pair: Pair) -> None:
    (group,) = pair.sample(replace(ask(num_generations=64, temperature=1.2), min_p=0.3))
    assert gap(pair.reference, group) < ROUNDING


def unlikely(model: LlamaForCausalLM, group: Group, setting: dict[str, Any]) -> int:
    """How many tokens of the group's completions truncation should have left out."""
    tokens = [completion.token_ids.tolist() for completion in group.completions]
    table = np.exp(log_probabilities(model, group.prompt, tokens, group.temperature))
    found = 0
    for row, ids in zip(table, tokens, strict=True):
        for probabilities, token in zip(row, ids, strict=False):
            probable = np.sort(probabilities)[::-1]
            above = probable[probable > probabilities[token] * (1 + 1e-4)]
            kept = probable[: setting.get("top_k", len(probable))].sum()
            found += (
                len(above) >= setting.get("top_k", len(probable))
                or above.sum() / kept >= setting.get("top_p", 1.0) + 1e-4
                or probabilities[token] < setting.get("min_p", 0.0) * probable[0] * (1 - 1e-4)
            )
    return found


# Weights


@pytest.fixture
def restored(pair: Pair) -> Iterator[Pair]:
    """The engine gets its first weights back, whatever happened to it."""
    original = pair.reference
    yield pair
    pair.reference = original
    pair.sync_weights(original, 1000 + pair.engine.policy_version)
    (group,) = pair.sample(ask())
    assert gap(original, group) < ROUNDING


def perturbed(model: LlamaForCausalLM, seed: int) -> LlamaForCausalLM:
    """Another policy. Every weight is changed, the embeddings beyond recognition."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in other.named_parameters():
        size = 1.0 if "embed_tokens" in name else 0.1
        weight.add_(torch.randn(weight.shape, generator=generator), alpha=size)
    return other


@pytest.mark.parametrize("bucket_bytes", [1, 50_000, 1 << 30], ids=["one each", "some", "one bucket"])
def test_weight_sync_makes_the_engine_agree_with_the_trainer(restored: Pair, bucket_bytes: int) -> None:
    prompts = [random_prompt(length) for length in (5, 40)]
    latest = restored.reference
    first = restored.engine.policy_version + 1
    for version in (first, first + 1, first + 2):
        before = latest
        latest = perturbed(before, version)
        restored.sample(*map(ask, prompts))  # cached prefixes of the weights before
        restored.sync_weights(latest, version, bucket_bytes)
        for group in restored.sample(*map(ask, prompts)):
            assert group.policy_version == version
            assert gap(latest, group) < ROUNDING
            assert gap(before, group) > 0.1


def transfer(pair: Pair) -> Any:
    """The weight-transfer engine."""
    return pair.engine._llm.llm_engine.model_executor.driver_worker.worker.weight_transfer_engine


def test_weights_are_loaded_in_place(restored: Pair) -> None:
    restored.sync_weights(restored.reference, 1)
    assert transfer(restored)._in_place


def test_a_model_of_which_more_was_changed_is_loaded_layer_by_layer(
    restored: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = transfer(restored)
    latest = restored.reference
    with monkeypatch.context() as patch:
        patch.setattr(receiver, "_in_place", None)
        norm = receiver.model.model.norm
        norm.register_buffer("of_some_kernel", torch.zeros(3))
        assert reloading.in_place(receiver.model) is None
        del norm.of_some_kernel
        for version in (1, 2):
            before, latest = latest, perturbed(latest, version)
            restored.sync_weights(latest, version)
            (group,) = restored.sample(ask())
            assert gap(latest, group) < ROUNDING
            assert gap(before, group) > 0.1


@pytest.mark.parametrize(
    "tensor", ["model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight", "model.norm.weight"]
)
def test_a_single_changed_tensor_arrives(restored: Pair, tensor: str) -> None:
    changed = copy.deepcopy(restored.reference)
    weight = changed.get_parameter(tensor)
    weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(5)))
    restored.sync_weights(changed, 7)
    (group,) = restored.sample(ask())
    assert gap(changed, group) < ROUNDING
    assert gap(restored.reference, group) > 1e-2


def refused(pair: Pair, health: str) -> bool:
    assert pair.engine.health == health
    with pytest.raises(EngineError, match=f"This engine is {health}: .* mixture of two versions"):
        pair.sample(ask())
    return True


def test_an_engine_between_two_versions_refuses_to_sample(restored: Pair) -> None:
    engine, weights = restored.engine, list(restored.reference.named_parameters())
    engine.start_weight_update()
    assert refused(restored, "torn")
    for data, layout in pack(weights, 50_000):
        engine.update_weights({"data": data, "layout": layout})
        assert refused(restored, "torn")
    engine.finish_weight_update("1")
    assert refused(restored, "torn")
    engine.confirm(1, checksum(weights))
    restored.sample(ask())


def test_a_weight_sync_that_sends_nothing_is_caught(restored: Pair) -> None:
    engine = restored.engine
    engine.start_weight_update()
    engine.finish_weight_update("1")
    with pytest.raises(EngineError, match=r"checksum .* the weights did not arrive"):
        engine.confirm(1, checksum(restored.reference.named_parameters()))
    assert refused(restored, "poisoned")


def test_a_weight_sync_that_loads_nothing_is_caught(restored: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    model = type(restored.engine._llm.llm_engine.model_executor.driver_worker.get_model())
    with monkeypatch.context() as patch:
        patch.setattr(model, "load_weights", lambda self, weights: set())
        with pytest.raises(EngineError, match="the weights did not arrive"):
            restored.sync_weights(perturbed(restored.reference, 3), 1)
    assert refused(restored, "poisoned")


def test_a_weight_sync_that_leaves_one_weight_out_is_caught(restored: Pair) -> None:
    engine, weights = restored.engine, list(perturbed(restored.reference, 3).named_parameters())
    engine.start_weight_update()
    for data, layout in pack(weights[:-1]):
        engine.update_weights({"data": data, "layout": layout})
    engine.finish_weight_update("1")
    with pytest.raises(EngineError, match="the weights did not arrive"):
        engine.confirm(1, checksum(weights))
    assert refused(restored, "poisoned")


def test_another_version_than_the_one_announced_is_refused(restored: Pair) -> None:
    engine, weights = restored.engine, list(restored.reference.named_parameters())
    engine.start_weight_update()
    for data, layout in pack(weights):
        engine.update_weights({"data": data, "layout": layout})
    engine.finish_weight_update("4")
    with pytest.raises(EngineError, match=r"holds policy version '4' .* sent version '5'"):
        engine.confirm(5, checksum(weights))
    assert refused(restored, "poisoned")


def test_a_confirmation_without_an_update_is_refused(restored: Pair) -> None:
    with pytest.raises(EngineError):
        restored.engine.confirm(restored.engine.policy_version, checksum(restored.reference.named_parameters()))
    assert refused(restored, "poisoned")


def test_an_update_that_fails_poisons_the_engine(restored: Pair) -> None:
    unknown = ("model.layers.0.nonsense.weight", torch.zeros(2, 2))
    ((data, layout),) = pack([*restored.reference.named_parameters(), unknown])
    restored.engine.start_weight_update()
    with pytest.raises(Exception, match="nonsense"):
        restored.engine.update_weights({"data": data, "layout": layout})
    assert refused(restored, "poisoned")


def test_completions_say_what_they_are(pair: Pair) -> None:
    (group,) = pair.sample(ask(num_generations=5))
    for completion in group.completions:
        assert isinstance(completion, Completion)
        assert completion.token_ids.dtype == np.int32
        assert completion.logprobs.dtype == np.float32
        assert completion.logprobs.shape == completion.token_ids.shape
    assert [c.count for c in group.completions] == sorted((c.count for c in group.completions), reverse=True)


@pytest.mark.skipif(ENGINE is not None, reason="is one of these")
@pytest.mark.parametrize("engine", ["stock", "cramped"])
@pytest.mark.timeout(300)
def test_all_of_this_with_another_engine(engine: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", __file__]
    environment = os.environ | {"COHORT_TEST_ENGINE": engine}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
