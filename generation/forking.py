"""Sampling a group by forking: one sequence per distinct prefix instead of one per sample.

A branch is a prefix shared by `count` samples. At each position the count is split by one multinomial draw
over the next-token distribution; each distinct token goes on with its own count. A multinomial draw is the
joint law of independent draws, so the leaves with their counts are distributed exactly as `count` independent
samples.

In vLLM the draw is made by a logits processor: it lets the most frequent token go on in place by masking all
others, and leaves the other tokens to `sample`, which adds a request for each. The shared prefix of such a
request is a prefix-cache hit. To vLLM the requests are greedy: it takes the one token that is left.
"""

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from vllm import SamplingParams
from vllm.inputs import TokensPrompt
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.llm_engine import LLMEngine
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates
from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p_pytorch

from generation.groups import FinishReason


@dataclass(frozen=True)
class Truncation:
    """Which tokens may be drawn; vLLM's parameters of the same names (`top_k` 0 is off)."""

    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0

    def apply(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """[vocabulary] logits with the excluded tokens at -inf."""
        if self.min_p > 0:
            logits = np.where(logits < logits.max() + np.log(self.min_p), -np.inf, logits).astype(np.float32)
        if 0 < self.top_k < len(logits) or self.top_p < 1:
            k = torch.tensor([self.top_k]) if 0 < self.top_k < len(logits) else None
            p = torch.tensor([self.top_p]) if self.top_p < 1 else None
            logits = apply_top_k_top_p_pytorch(torch.from_numpy(logits.copy())[None], k, p)[0].numpy()
        return logits


@dataclass(frozen=True)
class Split:
    """One draw: the distinct next tokens of a branch, most frequent first.

    position: how many tokens the branch had.
    token_ids, counts: [distinct]; logprobs: [distinct] float32, before truncation.
    """

    position: int
    token_ids: NDArray[np.int64]
    counts: NDArray[np.int64]
    logprobs: NDArray[np.float32]


@dataclass
class Branch:
    """A prefix that `count` samples of one group share.

    index: the group. start: tokens the branch had when its request was made.
    split: the latest draw; vLLM may draw again at a position (chunked prefill, preemption), the last one holds.
    """

    index: int
    temperature: float
    seed: int
    truncation: Truncation
    count: int
    token_ids: list[int]
    logprobs: list[float]
    start: int = field(init=False)
    split: Split | None = None

    def __post_init__(self) -> None:
        self.start = len(self.token_ids)

    def draw(self, logits: torch.Tensor, generated: int) -> int:
        """Splits the branch at its next token and returns the token that goes on in place.

        logits: [vocabulary] float32, before temperature. generated: tokens since `start`.
        """
        scaled = logits.float().cpu().numpy() / np.float32(self.temperature)
        path = self.token_ids[: self.start + generated]
        token_ids, counts = multinomial(
            self.truncation.apply(scaled), self.count, _generator(self.seed, path)
        )
        peak = scaled.max()
        log_total = peak + np.log(np.exp(scaled - peak, dtype=np.float64).sum())
        self.split = Split(len(path), token_ids, counts, (scaled[token_ids] - log_total).astype(np.float32))
        return int(token_ids[0])


    def advance(self, token_ids: Sequence[int]) -> list["Branch"]:
        """Takes the draw that vLLM followed with `token_ids`; returns the branches that go on elsewhere."""
        split = self.split
        if split is None or split.position != len(self.token_ids) or [*token_ids] != [split.token_ids[0]]:
            raise RuntimeError(
                f"vLLM generated {[*token_ids]} at position {len(self.token_ids)} of a forked request, where "
                f"{split} was drawn. Set engine.fork to off and report this."
            )
        children = [
            Branch(
                self.index,
                self.temperature,
                self.seed,
                self.truncation,
                int(count),
                [*self.token_ids, int(token)],
                [*self.logprobs, float(logprob)],
            )
            for token, count, logprob in zip(
                split.token_ids[1:], split.counts[1:], split.logprobs[1:], strict=True
            )
        ]
        self.count = int(split.counts[0])
        self.token_ids.append(int(split.token_ids[0]))
        self.logprobs.append(float(split.logprobs[0]))
        return children


def _generator(seed: int, path: Sequence[int]) -> np.random.Generator:
    """Random numbers that depend on the seed and the prefix only, never on the order of requests."""
    text = np.array([seed, *path], dtype=np.uint64).tobytes()
    key = int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key))


def multinomial(
    logits: NDArray[np.float32], count: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`count` draws from softmax(`logits`): distinct token ids and their counts, most frequent first.

    Inverse transform sampling on a float64 cumulative distribution.
    """
    cumulative = np.exp(logits - logits.max(), dtype=np.float64).cumsum()
    # The first token that reaches the total: rounding must not draw one of zero probability behind it.
    last = np.searchsorted(cumulative, cumulative[-1], side="left")
    drawn = np.searchsorted(cumulative, rng.random(count) * cumulative[-1], side="right")
    token_ids, counts = np.unique(np.minimum(drawn, last), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return token_ids[order], counts[order]


class ForkProcessor(LogitsProcessor):
    """vLLM's side of forking: draws for the rows whose request carries a branch (`extra_args["branch"]`)."""

    branches: dict[int, Branch] = {}
    """Branches of running requests by ticket. vLLM copies sampling parameters, so they carry the ticket."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._rows: dict[int, tuple[Branch, list[int]]] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        process_dict_updates(self._rows, batch_update, self._row)

    def _row(
        self, params: SamplingParams, _: list[int] | None, output_token_ids: list[int]
    ) -> tuple[Branch, list[int]] | None:
        ticket = (params.extra_args or {}).get("branch")
        return None if ticket is None else (self.branches[ticket], output_token_ids)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        for row, (branch, output_token_ids) in self._rows.items():
            token = branch.draw(logits[row], len(output_token_ids))
            logits[row] = -torch.inf
            logits[row, token] = 0.0
        return logits


@dataclass(frozen=True)
class Root:
    """What to sample: `count` completions of a tokenized prompt."""

    prompt_token_ids: tuple[int, ...]
    count: int
    temperature: float
    seed: int


@dataclass(frozen=True)
class Leaf:
    """A finished branch of group `index`."""

    index: int
    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    finish_reason: FinishReason
    count: int


def sample(
    engine: LLMEngine,
    roots: Sequence[Root],
    *,
    max_tokens: int,
    end_token_ids: frozenset[int],
    truncation: Truncation,
    stops: Callable[[Sequence[int]], bool],
) -> list[Leaf]:
    """All leaves of all roots, in no particular order; the counts of a root's leaves sum to its count.

    end_token_ids: tokens that end a completion. stops: whether the tokens so far hold a stop string.
    """
    tickets = itertools.count()
    leaves: list[Leaf] = []

    def ends(branch: Branch) -> bool:
        """Records the branch as a leaf if it ends here."""
        ids = branch.token_ids
        stopped = bool(ids) and (ids[-1] in end_token_ids or stops(ids))
        if not stopped and len(ids) < max_tokens:
            return False
        leaves.append(
            Leaf(
                branch.index,
                np.array(ids, dtype=np.int32),
                np.array(branch.logprobs, dtype=np.float32),
                "stop" if stopped else "length",
                branch.count,
            )
        )
        return True

    def request(branch: Branch) -> None:
        ticket = next(tickets)
        params = SamplingParams(
            temperature=0.0,
            max_tokens=max_tokens - len(branch.token_ids),
            ignore_eos=True,
            stop_token_ids=sorted(end_token_ids),
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            extra_args={"branch": ticket},
        )
        ForkProcessor.branches[ticket] = branch
        prompt = [*roots[branch.index].prompt_token_ids, *branch.token_ids]
        engine.add_request(str(ticket), TokensPrompt(prompt_token_ids=prompt), params)

    try:
        for index, root in enumerate(roots):
            request(Branch(index, root.temperature, root.seed, truncation, root.count, [], []))
        while ForkProcessor.branches:
            for output in engine.step():
                ticket = int(output.request_id)
                branch = ForkProcessor.branches[ticket]
                for child in branch.advance(output.outputs[0].token_ids):
                    if not ends(child):
                        request(child)
                if ends(branch):
                    del ForkProcessor.branches[ticket]
                    if not output.finished:  # a stop string, which vLLM was not told of
                        engine.abort_request([output.request_id])
    finally:
        if ForkProcessor.branches:
            engine.abort_request([str(ticket) for ticket in ForkProcessor.branches])
            ForkProcessor.branches.clear()
    return leaves
