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

import hashlib
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
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

ROWS_AT_ONCE = 64
"""Rows of logits that are drawn from together: some copies of [rows, vocabulary] numbers exist for a moment."""


@dataclass(frozen=True)
class Truncation:
    """Which tokens may be drawn; vLLM's parameters of the same names (`top_k` 0 is off)."""

    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0

    def apply(self, logits: Tensor) -> Tensor:
        """[rows, vocabulary] logits with the excluded tokens at -inf."""
        rows, vocabulary = logits.shape
        if self.min_p > 0:
            logits = logits.masked_fill(logits < logits.amax(-1, keepdim=True) + math.log(self.min_p), -torch.inf)
        if 0 < self.top_k < vocabulary or self.top_p < 1:
            k = logits.new_full((rows,), self.top_k, dtype=torch.long) if 0 < self.top_k < vocabulary else None
            p = logits.new_full((rows,), self.top_p) if self.top_p < 1 else None
            logits = apply_top_k_top_p_pytorch(logits.clone(), k, p)
        return logits


@dataclass(frozen=True)
class Draw:
    """The distinct next tokens of a prefix, most frequent first.

    token_ids, counts: [distinct]. logprobs: [distinct] float32, before truncation.
    """

    token_ids: NDArray[np.int64]
    counts: NDArray[np.int64]
    logprobs: NDArray[np.float32]


def draw(
    logits: Tensor,
    temperatures: Sequence[float],
    truncation: Truncation,
    uniforms: Sequence[NDArray[np.float64]],
) -> list[Draw]:
    """For each row as many draws as it has random numbers, by inverse transform sampling.

    logits: [rows, vocabulary], before temperature. temperatures: [rows]; 0 takes the likeliest token, with the
    log-probability that it has at 1. uniforms: [rows][count] in [0, 1).
    """
    temperature = torch.tensor(temperatures, device=logits.device)[:, None]
    values = logits.float() / torch.where(temperature > 0, temperature, 1.0)
    allowed = truncation.apply(values)
    cumulative = (allowed - allowed.amax(-1, keepdim=True)).exp().cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1:].contiguous()
    at = np.zeros((len(uniforms), max(map(len, uniforms))))
    for row, numbers in zip(at, uniforms, strict=True):
        row[: len(numbers)] = numbers
    drawn = torch.searchsorted(cumulative, torch.from_numpy(at).to(logits.device) * total, right=True)
    # Not behind the first index that reaches the total: rounding must not draw a token of zero weight.
    drawn = drawn.minimum(torch.searchsorted(cumulative, total))
    drawn = torch.where(temperature > 0, drawn, values.argmax(-1, keepdim=True))
    logprobs = (values.gather(1, drawn) - values.logsumexp(-1, keepdim=True)).cpu().numpy()
    draws = []
    for tokens, row_logprobs, numbers in zip(drawn.cpu().numpy(), logprobs, uniforms, strict=True):
        distinct, first, counts = np.unique(tokens[: len(numbers)], return_index=True, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        draws.append(Draw(distinct[order], counts[order], row_logprobs[first[order]]))
    return draws


@dataclass(frozen=True)
class Split:
    """A draw that splits a branch.

    position: how many tokens the branch had.
    partial_block: of the prefix, for the branches that go on elsewhere; None if there are none, or if its last block
        is full.
    """

    position: int
    draw: Draw
    partial_block: handover.PartialBlock | None


@dataclass
class Branch:
    """A prefix that `count` samples of one group share.

    index: the group. inherited: the prefix's last block, where another request computed it and it is not full.
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
    inherited: handover.PartialBlock | None
    start: int = field(init=False)
    split: Split | None = None

    def __post_init__(self) -> None:
        self.start = len(self.token_ids)

    def uniforms(self, generated: int) -> NDArray[np.float64]:
        """[count] random numbers that depend on the seed and the prefix only, never on the order of requests.

        generated: tokens since `start`.
        """
        text = np.array([self.seed, *self.token_ids[: self.start + generated]], dtype=np.uint64).tobytes()
        key = int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")
        return np.random.Generator(np.random.Philox(key=key)).random(self.count)

    def split_by(self, draw: Draw, generated: int, copy: Callable[[], handover.PartialBlock | None]) -> int:
        """Notes the draw and returns the token that goes on in place.

        generated: tokens since `start`. copy: of the prefix's partial block; called if any branch goes on elsewhere.
        """
        self.split = Split(self.start + generated, draw, copy() if len(draw.token_ids) > 1 else None)
        return int(draw.token_ids[0])

    def advance(self, token_ids: Sequence[int]) -> list["Branch"]:
        """Takes the draw that vLLM followed with `token_ids`; returns the branches that go on elsewhere."""
        split = self.split
        if split is None or split.position != len(self.token_ids) or [*token_ids] != [split.draw.token_ids[0]]:
            raise RuntimeError(
                f"vLLM generated {[*token_ids]} at position {len(self.token_ids)} of a forked request, where "
                f"{split} was drawn. Set engine.fork to off and report this."
            )
        draw = split.draw
        children = [
            Branch(
                self.index,
                self.temperature,
                self.seed,
                self.truncation,
                int(count),
                [*self.token_ids, int(token)],
                [*self.logprobs, float(logprob)],
                split.partial_block,
            )
            for token, count, logprob in zip(draw.token_ids[1:], draw.counts[1:], draw.logprobs[1:], strict=True)
        ]
        self.split = self.inherited = None
        self.count = int(draw.counts[0])
        self.token_ids.append(int(draw.token_ids[0]))
        self.logprobs.append(float(draw.logprobs[0]))
        return children


@dataclass(frozen=True)
class ForkedRequest:
    """A running request, as vLLM's worker knows it.

    prompt_length: tokens that it began with, of the prompt and of the branch together. output_token_ids: those since;
        vLLM keeps that list up to date.
    """

    ticket: int
    prompt_length: int
    output_token_ids: list[int]

    @property
    def branch(self) -> Branch:
        """What the ticket stands for."""
        branch = handover.BRANCHES[self.ticket]
        assert isinstance(branch, Branch)
        return branch

    @property
    def generated(self) -> int:
        """Tokens since the request began."""
        return len(self.output_token_ids)

    def copy_partial_block(self) -> handover.PartialBlock | None:
        """Of all its tokens."""
        return handover.copy_partial_block(self.ticket, self.prompt_length + self.generated)


class ForkProcessor(LogitsProcessor):
    """vLLM's side of forking: draws for the rows of logits whose request has a ticket."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._requests: dict[int, ForkedRequest] = {}  # by row

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        process_dict_updates(self._requests, batch_update, self._request)

    def _request(
        self, params: SamplingParams, prompt_token_ids: list[int] | None, output_token_ids: list[int]
    ) -> ForkedRequest | None:
        ticket = handover.ticket_of(params)
        return None if ticket is None else ForkedRequest(ticket, len(prompt_token_ids or ()), output_token_ids)

    def apply(self, logits: Tensor) -> Tensor:
        alike: dict[Truncation, list[int]] = {}
        for row, request in self._requests.items():
            alike.setdefault(request.branch.truncation, []).append(row)
        for truncation, rows in alike.items():
            for start in range(0, len(rows), ROWS_AT_ONCE):
                self._draw(logits, rows[start : start + ROWS_AT_ONCE], truncation)
        return logits

    def _draw(self, logits: Tensor, rows: Sequence[int], truncation: Truncation) -> None:
        requests = [self._requests[row] for row in rows]
        index = torch.tensor(rows, device=logits.device)
        draws = draw(
            logits[index],
            [request.branch.temperature for request in requests],
            truncation,
            [request.branch.uniforms(request.generated) for request in requests],
        )
        going_on = [
            request.branch.split_by(drawn, request.generated, request.copy_partial_block)
            for request, drawn in zip(requests, draws, strict=True)
        ]
        logits[index] = -torch.inf
        logits[index, torch.tensor(going_on, device=logits.device)] = 0.0


@dataclass(frozen=True)
class Root:
    """What to sample: `count` completions of a tokenized prompt."""

    prompt_token_ids: tuple[int, ...]
    count: int
    temperature: float
    seed: int
    truncation: Truncation


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
            extra_args={handover.TICKET: ticket},
        )
        handover.BRANCHES[ticket] = branch
        branches[ticket] = branch
        prompt = [*roots[branch.index].prompt_token_ids, *branch.token_ids]
        engine.add_request(str(ticket), TokensPrompt(prompt_token_ids=prompt), params)

    try:
        for index, root in enumerate(roots):
            request(Branch(index, root.temperature, root.seed, root.truncation, root.count, [], [], None))
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
                    del branches[ticket], handover.BRANCHES[ticket]
    finally:
        engine.abort_request([str(ticket) for ticket in branches])
        for ticket in branches:
            del handover.BRANCHES[ticket]
    return leaves
