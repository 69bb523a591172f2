"""Sampling a group by forking: one sequence per distinct prefix instead of one per sample.

A branch is a prefix shared by `count` samples. At each position the count is split by one multinomial draw
over the next-token distribution; each distinct token goes on with its own count. A multinomial draw is the
joint law of independent draws, so the leaves with their counts are distributed exactly as `count` independent
samples.

In vLLM the draw is made by a logits processor: it lets the most frequent token go on in place by masking all
others, and leaves the other tokens to `sample`, which adds a request for each. The shared prefix of such a
request is a prefix-cache hit, and `generation.handover` brings the rest of it. To vLLM the requests are greedy:
it takes the one token that is left.
"""

import functools
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
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.llm_engine import LLMEngine
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates
from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p_pytorch

from generation import handover
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
    tail: of the prefix, for the branches that go on elsewhere.
    """

    position: int
    token_ids: NDArray[np.int64]
    counts: NDArray[np.int64]
    logprobs: NDArray[np.float32]
    tail: handover.Tail | None


@dataclass
class Branch:
    """A prefix that `count` samples of one group share.

    index: the group. tail: of the prefix, where another request computed it.
    start: tokens the branch had when its request was made.
    split: the latest draw; vLLM may draw again at a position (chunked prefill, preemption), the last one holds.
    """

    index: int
    temperature: float
    seed: int
    truncation: Truncation
    count: int
    token_ids: list[int]
    logprobs: list[float]
    tail: handover.Tail | None
    start: int = field(init=False)
    split: Split | None = None

    def __post_init__(self) -> None:
        self.start = len(self.token_ids)

    def draw(self, logits: torch.Tensor, generated: int, tail: Callable[[], handover.Tail | None]) -> int:
        """Splits the branch at its next token and returns the token that goes on in place.

        logits: [vocabulary] float32, before temperature (0 takes the likeliest token).
        generated: tokens since `start`. tail: copies the tail of the prefix.
        """
        path = self.token_ids[: self.start + generated]
        values: NDArray[np.float32] = logits.float().cpu().numpy()
        if self.temperature:
            values = (values / self.temperature).astype(np.float32, copy=False)
            allowed = self.truncation.apply(values)
            token_ids, counts = multinomial(_cumulative(allowed), self.count, _generator(self.seed, path))
        else:
            token_ids, counts = np.array([values.argmax()]), np.array([self.count])
        log_total = values.max() + np.log(_cumulative(values)[-1])
        logprobs = (values[token_ids] - log_total).astype(np.float32)
        self.split = Split(len(path), token_ids, counts, logprobs, tail() if len(token_ids) > 1 else None)
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
                split.tail,
            )
            for token, count, logprob in zip(split.token_ids[1:], split.counts[1:], split.logprobs[1:], strict=True)
        ]
        self.split = self.tail = None
        self.count = int(split.counts[0])
        self.token_ids.append(int(split.token_ids[0]))
        self.logprobs.append(float(split.logprobs[0]))
        return children


def _generator(seed: int, path: Sequence[int]) -> np.random.Generator:
    """Random numbers that depend on the seed and the prefix only, never on the order of requests."""
    text = np.array([seed, *path], dtype=np.uint64).tobytes()
    key = int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key))


def _cumulative(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """[vocabulary] running sum of exp(logits - largest logit)."""
    total: NDArray[np.float64] = np.exp(logits - logits.max()).cumsum(dtype=np.float64)
    return total


def multinomial(
    cumulative: NDArray[np.float64], count: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`count` draws by inverse transform sampling: distinct indices and their counts, most frequent first.

    cumulative: [n] running sum of weights that need not sum to 1.
    """
    # The first index that reaches the total: rounding must not draw one of zero weight behind it.
    last = np.searchsorted(cumulative, cumulative[-1], side="left")
    drawn = np.searchsorted(cumulative, rng.random(count) * cumulative[-1], side="right")
    indices, counts = np.unique(np.minimum(drawn, last), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return indices[order], counts[order]


class ForkProcessor(LogitsProcessor):
    """vLLM's side of forking: draws for the rows whose request carries a branch (`extra_args["branch"]`)."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._rows: dict[int, tuple[int, int, list[int]]] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        process_dict_updates(self._rows, batch_update, self._row)

    def _row(
        self, params: SamplingParams, prompt_token_ids: list[int] | None, output_token_ids: list[int]
    ) -> tuple[int, int, list[int]] | None:
        """Ticket, length of the prompt, tokens since (vLLM keeps that list up to date)."""
        ticket = handover.ticket_of(params)
        return None if ticket is None else (ticket, len(prompt_token_ids or ()), output_token_ids)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        for row, (ticket, prompt_length, output_token_ids) in self._rows.items():
            branch = handover.TICKETS[ticket]
            assert isinstance(branch, Branch)
            length = prompt_length + len(output_token_ids)
            token = branch.draw(logits[row], len(output_token_ids), functools.partial(handover.tail, ticket, length))
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


_TICKETS = itertools.count()


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
    branches: dict[int, Branch] = {}
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
        ticket = next(_TICKETS)
        params = SamplingParams(
            temperature=0.0,
            max_tokens=max_tokens - len(branch.token_ids),
            ignore_eos=True,
            stop_token_ids=sorted(end_token_ids),
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            extra_args={"branch": ticket},
        )
        handover.TICKETS[ticket] = branch
        branches[ticket] = branch
        prompt = [*roots[branch.index].prompt_token_ids, *branch.token_ids]
        engine.add_request(str(ticket), TokensPrompt(prompt_token_ids=prompt), params)

    try:
        for index, root in enumerate(roots):
            request(Branch(index, root.temperature, root.seed, truncation, root.count, [], [], None))
        while branches:
            for output in engine.step():
                assert isinstance(output, RequestOutput)
                ticket = int(output.request_id)
                branch = branches[ticket]
                for child in branch.advance(output.outputs[0].token_ids):
                    if not ends(child):
                        request(child)
                if ends(branch):
                    if not output.finished:  # a stop string, which vLLM was not told of
                        engine.abort_request([output.request_id])
                    del branches[ticket], handover.TICKETS[ticket]
    finally:
        engine.abort_request([str(ticket) for ticket in branches])
        for ticket in branches:
            del handover.TICKETS[ticket]
    return leaves
