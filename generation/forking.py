"""Sampling a group by forking: one sequence per distinct prefix instead of one per sample.

A branch is a prefix shared by `count` samples. At each position the count is split by one multinomial draw
over the next-token distribution; each distinct token goes on with its own count. A multinomial draw is the
joint law of independent draws, so the leaves with their counts are distributed exactly as `count` independent
samples. A branch of one sample is drawn in the same pass over the logits, and costs nothing else.

In vLLM the draw is made by a logits processor: it raises the most frequent token above all others, which goes on in
place, and leaves the other tokens to `sample`, which adds a request for each. The shared prefix of such a
request is a prefix-cache hit, and `generation.handover` brings the rest of it. To vLLM the requests are greedy.
"""

import hashlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
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

from generation import handover
from generation.drawing import Truncation, draw, random_numbers
from generation.groups import FinishReason

LOGITS_AT_ONCE = {"cpu": 1 << 22, "cuda": 1 << 27}
"""Logits that are drawn from together: a few copies of them exist for a moment. On a CPU they should fit its caches,
on a GPU every pass makes the host wait."""


@dataclass(frozen=True)
class Split:
    """A draw that splits a branch.

    generated: tokens that its request had generated.
    token_ids, counts, logprobs: [distinct] of the branches that go on elsewhere.
    kept: samples that go on in place.
    partial_block: of the prefix; None if its last block is full.
    """

    generated: int
    token_ids: NDArray[np.int64]
    counts: NDArray[np.int64]
    logprobs: NDArray[np.float32]
    kept: int
    partial_block: handover.PartialBlock | None


@dataclass
class Branch:
    """A prefix that `count` samples of one group share, and its running request.

    index: the group. key: 64 bits; random numbers depend on it and the number of generated tokens only.
    prompt_length: tokens of the prompt. token_ids: the branch's when its request was made.
    inherited: the prefix's last block, where another request computed it and it is not full.
    generated: the request's tokens since then; vLLM's own list, which it keeps up to date.
    drawn, logprobs: of the tokens since then, and of all. vLLM may draw again at a position (chunked prefill,
        preemption): the last draw holds.
    split: the latest one.
    """

    index: int
    temperature: float
    key: int
    truncation: Truncation
    count: int
    prompt_length: int
    token_ids: list[int]
    logprobs: list[float]
    inherited: handover.PartialBlock | None
    generated: list[int] = field(default_factory=list)
    drawn: list[int] = field(default_factory=list)
    split: Split | None = None

    @property
    def length(self) -> int:
        """Tokens of prompt and branch together."""
        return self.prompt_length + len(self.token_ids) + len(self.generated)

    def go_on(self, token_id: int, logprob: float) -> None:
        """Notes what was drawn after the generated tokens."""
        at = len(self.generated)
        del self.drawn[at:], self.logprobs[len(self.token_ids) + at :]
        self.drawn.append(token_id)
        self.logprobs.append(logprob)
        self.inherited = None

    def finished(self) -> list[int]:
        """The branch's tokens, once vLLM has followed all draws. Raises RuntimeError: it has not."""
        if self.generated != self.drawn:
            raise RuntimeError(
                f"vLLM generated {self.generated} for a forked request, where {self.drawn} was drawn. Set "
                "engine.fork to off and report this."
            )
        return [*self.token_ids, *self.generated]

    def children(self) -> list["Branch"]:
        """The branches that go on elsewhere, once vLLM has followed the latest split."""
        split, self.split = self.split, None
        assert split is not None
        prefix = self.finished()[:-1]
        logprobs = self.logprobs[: len(prefix)]
        self.count = split.kept
        return [
            Branch(
                self.index,
                self.temperature,
                key_of(self.key, split.generated, token),
                self.truncation,
                count,
                self.prompt_length,
                [*prefix, token],
                [*logprobs, logprob],
                split.partial_block,
            )
            for token, count, logprob in zip(
                split.token_ids.tolist(), split.counts.tolist(), split.logprobs.tolist(), strict=True
            )
        ]


def key_of(*parts: int) -> int:
    """64 bits that other parts do not share: a branch's key is made of its parent's and of where it left it."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


_SPLIT: list[Branch] = []
"""Branches that were split since `sample` looked last."""


class ForkProcessor(LogitsProcessor):
    """vLLM's side of forking: draws for the rows of logits whose request has a ticket."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._branches: dict[int, tuple[int, Branch]] = {}  # by row, with the ticket

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        process_dict_updates(self._branches, batch_update, self._branch)

    def _branch(
        self, params: SamplingParams, prompt_token_ids: list[int] | None, output_token_ids: list[int]
    ) -> tuple[int, Branch] | None:
        ticket = handover.ticket_of(params)
        if ticket is None:
            return None
        branch = handover.BRANCHES[ticket]
        assert isinstance(branch, Branch)
        branch.generated = output_token_ids
        return ticket, branch

    def apply(self, logits: Tensor) -> Tensor:
        alike: dict[Truncation, list[int]] = {}
        for row, (_, branch) in sorted(self._branches.items()):
            alike.setdefault(branch.truncation, []).append(row)
        at_once = max(1, LOGITS_AT_ONCE[logits.device.type] // logits.shape[1])
        for truncation, rows in alike.items():
            for start in range(0, len(rows), at_once):
                self._draw(logits, rows[start : start + at_once], truncation)
        return logits

    def _draw(self, logits: Tensor, rows: list[int], truncation: Truncation) -> None:
        """Draws for these rows, in order, and raises what goes on in place above all other tokens."""
        tickets, branches = zip(*(self._branches[row] for row in rows), strict=True)
        counts = np.array([branch.count for branch in branches])
        uniforms = random_numbers(
            np.array([branch.key for branch in branches], dtype=np.uint64),
            np.array([len(branch.generated) for branch in branches]),
            counts,
        )
        if rows[-1] - rows[0] + 1 == len(rows):  # a view, not a copy
            chosen = logits[rows[0] : rows[-1] + 1]
        else:
            chosen = logits[torch.tensor(rows, device=logits.device)]
        draws = draw(chosen, [branch.temperature for branch in branches], truncation, uniforms, counts)
        first = draws.starts[:-1]
        going_on = np.stack([np.array(rows), draws.token_ids[first]])
        logits[tuple(torch.from_numpy(going_on).to(logits.device))] = torch.inf
        for branch, token, logprob in zip(
            branches, going_on[1].tolist(), draws.logprobs[first].tolist(), strict=True
        ):
            branch.go_on(token, logprob)
        for index in np.flatnonzero(np.diff(draws.starts) > 1).tolist():
            branch, others = branches[index], slice(first[index] + 1, draws.starts[index + 1])
            branch.split = Split(
                len(branch.generated),
                draws.token_ids[others],
                draws.counts[others],
                draws.logprobs[others],
                int(draws.counts[first[index]]),
                handover.copy_partial_block(tickets[index], branch.length),
            )
            _SPLIT.append(branch)


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
    """A finished branch."""

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
    stops: Callable[[Sequence[int]], bool] | None,
) -> Iterator[tuple[int, list[Leaf]]]:
    """Each root's number with its leaves, in no particular order, as soon as it has all of them; the counts of a
    root's leaves sum to its count.

    end_token_ids: tokens that end a completion. stops: whether the tokens so far hold a stop string, asked after each
    of them; None where there are no stop strings.
    """
    running: dict[int, Branch] = {}
    unfinished: Counter[int] = Counter()  # branches of each root
    leaves: dict[int, list[Leaf]] = defaultdict(list)

    def ends(branch: Branch, ids: Sequence[int]) -> bool:
        """Records the branch, with all its tokens, as a leaf if it ends here."""
        stopped = bool(ids) and (ids[-1] in end_token_ids or (stops is not None and stops(ids)))
        if not stopped and len(ids) < max_tokens:
            return False
        leaves[branch.index].append(
            Leaf(
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
            output_kind=RequestOutputKind.FINAL_ONLY,
            extra_args={handover.TICKET: ticket},
        )
        handover.BRANCHES[ticket] = branch
        running[ticket] = branch
        unfinished[branch.index] += 1
        prompt = [*roots[branch.index].prompt_token_ids, *branch.token_ids]
        engine.add_request(str(ticket), TokensPrompt(prompt_token_ids=prompt), params)

    try:
        for index, root in enumerate(roots):
            length = len(root.prompt_token_ids)
            request(Branch(index, root.temperature, root.seed, root.truncation, root.count, length, [], [], None))
        while running:
            outputs = engine.step()
            split, _SPLIT[:] = [*_SPLIT], []
            for branch in split:
                # vLLM discards what is drawn while a prompt is not yet computed to its end.
                if branch.split and len(branch.generated) == branch.split.generated + 1:
                    for child in branch.children():
                        if not ends(child, child.token_ids):
                            request(child)
            done = [int(output.request_id) for output in outputs if isinstance(output, RequestOutput)]
            if stops is not None:  # vLLM is told of none, for a stop string may begin in the inherited tokens
                stopped = [
                    ticket
                    for ticket, branch in running.items()
                    if branch.generated and stops([*branch.token_ids, *branch.generated])
                ]
                engine.abort_request([str(ticket) for ticket in stopped if ticket not in done])
                done = [*dict.fromkeys([*done, *stopped])]
            for ticket in done:
                branch = running.pop(ticket)
                del handover.BRANCHES[ticket]
                if not ends(branch, branch.finished()):
                    raise RuntimeError(f"vLLM ended a forked request after {branch.generated}, which is no end.")
                unfinished[branch.index] -= 1
                if not unfinished[branch.index]:
                    yield branch.index, leaves.pop(branch.index)
    finally:
        engine.abort_request([str(ticket) for ticket in running])
        for ticket in running:
            del handover.BRANCHES[ticket]
        _SPLIT.clear()
