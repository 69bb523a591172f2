"""One vLLM engine: samples groups and takes new weights."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from itertools import islice
from typing import Any, Literal

import numpy as np

from configs.schema import EngineSettings, SamplingSettings
from generation.groups import Completion, Group
from rewards.prompts import Prompt

Health = Literal["ready", "asleep", "torn", "poisoned"]


class EngineError(RuntimeError):
    """The engine cannot do what it was asked; the message says why."""


@dataclass(frozen=True)
class SampleRequest:
    """`num_generations` completions of a prompt at a temperature (0 is greedy).

    seed: 64 bits; the same seed, weights and prompt give the same group.
    min_p: instead of `sampling.min_p`, where that is lower; ignored where the engine cannot fork, because vLLM's
        log-probabilities would be of what is left by it.
    expected_tokens: of the group's distinct completions, as far as an earlier group tells; 0 if none does.
    """

    prompt: Prompt
    num_generations: int
    temperature: float
    seed: int
    min_p: float = 0.0
    expected_tokens: int = 0


def seed_of(*parts: object) -> int:
    """63 bits from (run seed, step, prompt id, ...): different parts never share random numbers."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@dataclass(frozen=True)
class EngineSpec:
    """What an engine process needs to know.

    model: a folder or hub id. revision: of a hub id, the commit.
    context_length: tokens of prompt and completion together.
    backend: of weight transfer, `shared_memory`, `ipc` or `nccl`. gpu: whether the engine runs on one. sleeps:
    whether it can give up the GPU's memory.
    """

    model: str
    revision: str | None
    dtype: str
    trust_remote_code: bool
    context_length: int
    backend: str
    gpu: bool
    sleeps: bool
    engine: EngineSettings
    sampling: SamplingSettings

    @property
    def forks(self) -> bool:
        """Whether groups are sampled by forking, which needs the engine in this process."""
        return self.engine.fork != "off" and self.engine.tensor_parallel_size == 1

    def environment(self) -> Mapping[str, str]:
        """Environment variables that vLLM reads on import."""
        variables = {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0" if self.engine.tensor_parallel_size == 1 else "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
        }
        if self.forks:
            # Forking draws in a logits processor of vLLM's first model runner; the second refuses it.
            variables["VLLM_USE_V2_MODEL_RUNNER"] = "0"
        return variables


def unknown_arguments(names: Iterable[str]) -> dict[str, list[str]]:
    """Which of these are no arguments of vLLM's `LLM`, each with those that have similar names. Imports vLLM."""
    from vllm import EngineArgs

    known = [field.name for field in fields(EngineArgs)]
    return {name: get_close_matches(name, known, n=2) for name in names if name not in known}


class Engine:
    """vLLM in this process. Refuses to sample between the start and the finish of a weight update (`torn`) and
    after one that failed (`poisoned`): its weights are then a mixture of two versions; and from falling asleep to the
    start of the next weight update (`asleep`): it has none."""

    def __init__(self, spec: EngineSpec) -> None:
        os.environ.update(spec.environment())
        os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)  # it would overrule engine.kv_cache_gib
        from vllm import LLM
        from vllm.config import KVTransferConfig

        from generation import forking, handover, weights

        self._spec = spec
        engine = spec.engine
        # On a GPU the last, partial block of a forked request is computed again, which is cheap there.
        hands_over = spec.forks and not spec.gpu
        connector = KVTransferConfig(
            kv_connector="PartialBlockHandover", kv_connector_module_path="generation.handover", kv_role="kv_both"
        )
        kv_cache_bytes = (engine.kv_cache_gib << 30) * (1 - handover.SHARE if hands_over else 1)
        self._llm = LLM(
            model=spec.model,
            revision=spec.revision,
            tokenizer_revision=spec.revision,
            dtype=spec.dtype,  # type: ignore[arg-type]
            trust_remote_code=spec.trust_remote_code,
            max_model_len=spec.context_length,
            tensor_parallel_size=engine.tensor_parallel_size,
            # In a placement group vLLM would take Ray, and ask it for GPUs again that this process has already.
            distributed_executor_backend="mp" if engine.tensor_parallel_size > 1 else None,
            gpu_memory_utilization=engine.gpu_memory_utilization,
            enforce_eager=engine.enforce_eager,
            enable_prefix_caching=True,
            # On a CPU vLLM 0.32 fails where it discards a seeded draw, as for a prompt computed in parts.
            enable_chunked_prefill=spec.forks or spec.gpu,
            async_scheduling=not spec.forks,
            logits_processors=[forking.ForkProcessor] if spec.forks else None,
            kv_cache_memory_bytes=None if spec.gpu else int(kv_cache_bytes),
            kv_transfer_config=connector if hands_over else None,
            logprobs_mode="processed_logprobs",
            weight_transfer_config={"backend": weights.backend(spec.backend)},
            worker_extension_cls="generation.weights.LoadedChecksum",
            enable_sleep_mode=spec.sleeps,
            block_size=32,
            **engine.vllm,  # type: ignore[arg-type]
        )
        self._tokenizer = self._llm.get_tokenizer()
        configured = self._llm.llm_engine.input_processor.generation_config_fields.get("eos_token_id") or ()
        ends = [configured] if isinstance(configured, int) else [*configured]
        self._end_token_ids = frozenset([self._tokenizer.eos_token_id, *ends]) - {None}
        self._special_token_ids = frozenset(self._tokenizer.all_special_ids)
        self.health: Health = "ready"
        self.policy_version = 0

    def sample(self, requests: Sequence[SampleRequest]) -> tuple[Group, ...]:
        """The requests' groups, in order. See `stream`."""
        return _in_order(self.stream(requests))

    def stream(self, requests: Sequence[SampleRequest]) -> Iterator[tuple[int, Group]]:
        """Each request's number with its group, as soon as that is whole; an engine that does not fork has them all
        at the end. Groups depend on weights and requests alone: prefixes that earlier calls left in the cache were
        computed in other batches, and so rounded otherwise.

        Raises EngineError: the engine's weights are not whole.
        """
        self.reset_prefix_cache()
        return self._groups(requests, self._fork if self._spec.forks else self._stock)

    def sample_plain(self, requests: Sequence[SampleRequest]) -> tuple[Group, ...]:
        """What `sample` is measured against: vLLM's own `n`, without the requests' seeds, which slow it down."""
        return _in_order(self._groups(requests, lambda some: self._stock(some, seeded=False)))

    def reset_prefix_cache(self) -> None:
        """Forgets cached prefixes.

        Raises EngineError: requests are still running.
        """
        if not self._llm.reset_prefix_cache():
            self.health = "poisoned"
            raise EngineError("vLLM did not reset its prefix cache: requests are still running.")

    def _groups(
        self,
        requests: Sequence[SampleRequest],
        sample: Callable[[Sequence[SampleRequest]], Iterable[tuple[int, list[Completion]]]],
    ) -> Iterator[tuple[int, Group]]:
        if self.health != "ready":
            if self.health == "asleep":
                raise EngineError("This engine is asleep, and has no weights. Send it some.")
            raise EngineError(
                f"This engine is {self.health}: an update from policy version {self.policy_version} "
                f"{'is under way' if self.health == 'torn' else 'failed'}, so its weights may be a mixture of two "
                "versions. Finish the update, or replace the engine."
            )
        for index, completions in sample(requests):
            asked = requests[index]
            yield index, Group(asked.prompt, distinct(completions), asked.temperature, self.policy_version)

    def _fork(self, requests: Sequence[SampleRequest]) -> Iterator[tuple[int, list[Completion]]]:
        from generation import forking
        from generation.drawing import Truncation

        sampling = self._spec.sampling
        for index, leaves in forking.sample(
            self._llm.llm_engine,
            [
                forking.Root(
                    r.prompt.token_ids,
                    r.num_generations,
                    r.temperature,
                    r.seed,
                    Truncation(sampling.top_p, sampling.top_k, max(sampling.min_p, r.min_p)),
                )
                for r in requests
            ],
            max_tokens=sampling.max_completion_length,
            end_token_ids=self._end_token_ids,
            stops=self._stops if sampling.stop else None,
        ):
            yield (
                index,
                [
                    Completion(
                        leaf.token_ids,
                        self._text(leaf.token_ids.tolist()),
                        leaf.logprobs,
                        leaf.finish_reason,
                        leaf.count,
                    )
                    for leaf in leaves
                ],
            )

    def _stock(
        self, requests: Sequence[SampleRequest], seeded: bool = True
    ) -> Iterable[tuple[int, list[Completion]]]:
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        sampling = self._spec.sampling
        parameters = [
            SamplingParams(
                n=r.num_generations,
                temperature=r.temperature,
                seed=r.seed if seeded else None,
                top_p=sampling.top_p if r.temperature else 1.0,
                top_k=sampling.top_k if r.temperature else 0,
                min_p=sampling.min_p if r.temperature else 0.0,
                stop=list(sampling.stop),
                max_tokens=sampling.max_completion_length,
                logprobs=0,
            )
            for r in requests
        ]
        prompts = [TokensPrompt(prompt_token_ids=list(r.prompt.token_ids)) for r in requests]
        outputs = self._llm.generate(prompts, parameters, use_tqdm=False)
        return enumerate([self._completion(sample) for sample in output.outputs] for output in outputs)

    def _completion(self, sample: Any) -> Completion:
        """vLLM's `CompletionOutput` of a request that asked for log-probabilities."""
        logprobs = [at[token].logprob for token, at in zip(sample.token_ids, sample.logprobs, strict=True)]
        return Completion(
            token_ids=np.array(sample.token_ids, dtype=np.int32),
            text=self._text(list(sample.token_ids)),
            logprobs=np.array(logprobs, dtype=np.float32),
            finish_reason="length" if sample.finish_reason == "length" else "stop",
            count=1,
        )

    def _text(self, token_ids: list[int]) -> str:
        """Without special tokens, and cut before a stop string, as vLLM gives it."""
        text: str = self._tokenizer.decode(token_ids, skip_special_tokens=True)
        cuts = [text.index(stop) for stop in self._spec.sampling.stop if stop in text]
        return text[: min(cuts)] if cuts else text

    def _stops(self, token_ids: Sequence[int]) -> bool:
        """Whether the text of these tokens holds a stop string, given that it did not without the last one: only so
        many tokens at the end are looked at as a stop string can consist of."""
        stops = self._spec.sampling.stop
        most = max(len(stop.encode()) for stop in stops) + 4  # a token has a byte at least, the first perhaps less
        spelt = (token for token in reversed(token_ids) if token not in self._special_token_ids)
        end = self._tokenizer.decode([*islice(spelt, most)][::-1])
        if not any(stop in end for stop in stops):
            return False
        text = self._tokenizer.decode(token_ids, skip_special_tokens=True)
        return any(stop in text for stop in stops)

    def sleep(self) -> None:
        """Gives up weights, keys and values; only a weight update, of all weights, can follow."""
        self.health = "asleep"
        self._llm.sleep(level=2)

    def wake_up(self, what: Literal["weights", "kv_cache"]) -> None:
        """Takes memory for them again, if it is not there: for `weights` before a weight update, for `kv_cache`
        after it, when ranks need their buffers no longer."""
        self._llm.wake_up(tags=[what])

    # The weight-update calls bear the names of vLLM's `VLLMWeightSyncClient`, so that vLLM's trainer side can
    # drive them.

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Rendezvous with the trainer."""
        self._llm.init_weight_transfer_engine({"init_info": init_info})

    def start_weight_update(self) -> None:
        """Opens an update; the engine is torn until `finish_weight_update`. One that was left open is begun anew."""
        if self.health == "torn":
            self._poisons(self._llm.finish_weight_update)
        self.health = "torn"
        self._poisons(self._llm.start_weight_update)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Loads one bucket."""
        self._poisons(lambda: self._llm.update_weights({"update_info": update_info}))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Closes the update; cached prefixes of the old weights are forgotten."""
        self._poisons(lambda: self._llm.finish_weight_update(weight_version))
        self.reset_prefix_cache()

    def confirm(self, policy_version: int, checksum: int) -> None:
        """Takes the engine out of `torn` if what it loaded is version `policy_version` with `checksum`.

        Raises EngineError, and stays out of use, if not.
        """
        loaded = self._llm.collective_rpc("loaded_checksum")
        version = self._llm.get_weight_version()
        if self.health != "torn" or version != str(policy_version) or set(loaded) != {checksum}:
            self.health = "poisoned"
            raise EngineError(
                f"The engine holds policy version {version!r} with weight checksum {loaded}, the trainer sent "
                f"version '{policy_version}' with checksum {checksum}: the weights did not arrive."
            )
        self.health = "ready"
        self.policy_version = policy_version

    def _poisons(self, call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException:
            self.health = "poisoned"
            raise


def _in_order(groups: Iterable[tuple[int, Group]]) -> tuple[Group, ...]:
    return tuple(group for _, group in sorted(groups, key=lambda one: one[0]))


def distinct(completions: Sequence[Completion]) -> tuple[Completion, ...]:
    """Merges equal completions (same tokens, same finish), adding their counts; most frequent first."""
    merged: dict[tuple[bytes, str], Completion] = {}
    for completion in completions:
        key = (completion.token_ids.tobytes(), completion.finish_reason)
        seen = merged.get(key)
        merged[key] = completion if seen is None else replace(seen, count=seen.count + completion.count)
    return tuple(sorted(merged.values(), key=lambda c: (-c.count, c.token_ids.tolist())))
