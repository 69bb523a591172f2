"""One DeepSpeed ZeRO rank: its share of every update."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

from configs.loading import merged
from configs.schema import TrainingSettings
from generation.engine import seed_of
from trainer.signal.step_size import WHOLE, StepSize
from trainer.update import file_format, lora
from trainer.update.forest import Forest
from trainer.update.rendezvous import store
from trainer.update.report import SUMMED, RankReport


class UpdateError(RuntimeError):
    """The update gave a loss or gradient that is not a number; the message says where."""


@dataclass(frozen=True)
class RankSpec:
    """What a rank's process needs to know.

    model: a folder or hub id. revision: of a hub id, the commit. rendezvous: where the ranks meet
    (`trainer.update.rendezvous`); one alone does not look at it.
    max_completion_length: tokens; Dr. GRPO divides by it.
    max_steps: updates that a decaying learning-rate schedule spans; None without one.
    timeout: seconds that a collective may take.
    lagged: whether an earlier version of the policy may have sampled what it is updated on.
    yields: whether an engine needs the GPU's memory that is not in use between updates.
    """

    rank: int
    model: str
    revision: str | None
    dtype: str
    trust_remote_code: bool
    gpu: bool
    training: TrainingSettings
    max_completion_length: int
    max_steps: int | None
    rendezvous: str
    timeout: float
    seed: int
    lagged: bool
    yields: bool


def zero_stage(training: TrainingSettings, dtype: str) -> int:
    """The ZeRO stage that ranks run at. One rank has nothing to split, and stage 0 spares it the copies that others
    make to split. In bfloat16 DeepSpeed sums gradients in float32 from stage 1 on. It offloads from there on too; but
    at stage 1 it holds all gradients on the GPU, some twice, and rounds their sum to bfloat16."""
    if training.offload:
        return max(training.zero_stage, 2)
    stage = training.zero_stage if training.ranks > 1 else 0
    return max(stage, 1) if dtype == "bfloat16" else stage


OFFLOADED: dict[str | None, tuple[str, ...]] = {
    None: (),
    "optimizer": ("offload_optimizer",),
    "parameters": ("offload_optimizer", "offload_param"),
}
"""`training.offload` in DeepSpeed's words. It pins that memory where there is a GPU."""


def deepspeed_config(training: TrainingSettings, dtype: str) -> dict[str, Any]:
    """DeepSpeed's configuration: ZeRO stage, bf16 weights with float32 masters and gradients, AdamW, clipping; and
    what `training.deepspeed` adds, which names none of these (`DEEPSPEED_OWN`)."""
    stage = zero_stage(training, dtype)
    own = {
        "train_micro_batch_size_per_gpu": 1,
        # The number of micro-batches differs from step to step: `Rank.update` sets the boundary itself.
        "gradient_accumulation_steps": 1,
        # Without ZeRO, `Rank` clips: DeepSpeed would not tell the norm.
        "gradient_clipping": training.max_grad_norm if stage else 0.0,
        # A gradient goes to its float32 sum at once, and not when there is one of every weight.
        "bf16": {"enabled": dtype == "bfloat16", "immediate_grad_update": True},
        # Sums of many micro-batches would lose their small terms in bfloat16.
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": {"stage": stage} | {part: {"device": "cpu"} for part in OFFLOADED[training.offload]},
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": training.learning_rate,
                "betas": [training.adam_beta1, training.adam_beta2],
                "weight_decay": training.weight_decay,
                "torch_adam": True,  # DeepSpeed's own is compiled at first use
                "fused": True,  # one pass over memory instead of ten
            },
        },
        "steps_per_print": 10**9,
    }
    return merged(own, training.deepspeed)


class Rank:
    """A DeepSpeed engine over the policy. Every rank makes the same calls in the same order."""

    def __init__(self, spec: RankSpec) -> None:
        world_size = spec.training.ranks
        os.environ |= {
            "RANK": str(spec.rank),
            "LOCAL_RANK": "0",
            "WORLD_SIZE": str(world_size),
        }
        if not spec.gpu:
            os.environ["DS_ACCELERATOR"] = "cpu"
        import deepspeed
        import torch
        from transformers import get_scheduler, set_seed

        from trainer.update.model import load_policy_model
        from trainer.update.policy import Policy

        if spec.training.threads and not spec.gpu:
            torch.set_num_threads(spec.training.threads)
        set_seed(spec.seed)
        # It would be compiled at first use, under a lock that outlives a killed process, and only inference uses it.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        backend, timeout = "nccl" if spec.gpu else "gloo", timedelta(seconds=spec.timeout)
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group(
                backend,
                store=store(spec.rendezvous, spec.rank, world_size, timeout),
                rank=spec.rank,
                world_size=world_size,
                timeout=timeout,
                # As DeepSpeed would: a single rank has no peer to bind a device for.
                device_id=torch.device("cuda", 0) if spec.gpu and world_size > 1 else None,
            )
        deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False, timeout=timeout)
        self._spec = spec
        self._device = torch.device("cuda" if spec.gpu else "cpu")

        def load() -> Any:
            return load_policy_model(spec.model, spec.dtype, spec.trust_remote_code, spec.revision)

        updates = None if spec.max_steps is None else spec.max_steps * spec.training.num_iterations

        def schedule(optimizer: Any) -> Any:
            return get_scheduler(
                spec.training.lr_scheduler_type,
                optimizer,
                num_warmup_steps=spec.training.warmup_steps * spec.training.num_iterations,
                num_training_steps=updates,
            )

        model = load()
        self._peft = lora.adapted(model, spec.training)
        policy = Policy(model, spec.training.gradient_checkpointing)
        config = deepspeed_config(spec.training, spec.dtype)
        if zero_stage(spec.training, spec.dtype) == 3:
            self._split(policy, config)
        self._engine, *_ = deepspeed.initialize(
            model=policy,
            model_parameters=[p for p in policy.parameters() if p.requires_grad],
            config=config,
            lr_scheduler=schedule,
        )
        if world_size == 1 and not spec.training.offload:  # which copies gradients as they are averaged
            # DeepSpeed would copy all gradients to and fro for an average over one rank.
            self._engine.enable_backward_allreduce = False
        if spec.dtype == "bfloat16":
            self._dither()
        self.policy_version: int | None = 0
        # No reference model is loaded when nothing depends on it, or when it is in the policy.
        self._reference = Policy(load()).to(self._device) if spec.training.beta and self._peft is None else None

    def _split(self, policy: Any, config: dict[str, Any]) -> None:
        """Leaves this rank its part of every weight, one weight after another: `deepspeed.initialize` would move the
        whole model to the device first, which may be smaller. What has been split it takes as it is, on its device
        and in its dtype, buffers included."""
        import deepspeed
        import torch

        for parameter in policy.parameters():
            parameter.data = parameter.data.to(getattr(torch, self._spec.dtype))
        deepspeed.zero.Init(module=policy, config_dict_or_path=config)
        for buffer in policy.buffers():
            buffer.data = buffer.data.to(self._device)

    def _dither(self) -> None:
        """Spreads masters over what rounds to their weights."""
        from deepspeed.utils import safe_set_full_fp32_param

        from trainer.update.dither import dithered

        for name, parameter in self._engine.module.named_parameters():
            if parameter.requires_grad:
                with _gathered([parameter]):
                    master = dithered(parameter.detach(), seed_of(self._spec.seed, name))
                safe_set_full_fp32_param(parameter, master)

    def update(
        self, forests: Sequence[Forest], num_samples: int, num_tokens: int, step_size: StepSize = WHOLE
    ) -> RankReport:
        """`num_iterations` updates on this rank's micro-batches.

        num_samples, num_tokens, step_size: of the whole batch, as in `Batch`.
        Raises UpdateError: loss or gradient norm is not finite.
        """
        old: list[Any] = []
        iterations = range(self._spec.training.num_iterations)
        before = self.policy_version
        reports = [self._iterate(forests, num_samples, num_tokens, step_size, old) for _ in iterations]
        self.policy_version = None if before is None else before + 1
        return RankReport(
            **{
                field.name: sum(getattr(report, field.name) for report in reports) / len(reports)
                for field in fields(RankReport)
            }
        )

    def _iterate(
        self, forests: Sequence[Forest], num_samples: int, num_tokens: int, step_size: StepSize, old: list[Any]
    ) -> RankReport:
        """One update. old: log-probabilities before the first one, a tensor for each forest; filled by it."""
        import torch

        from trainer.update.objective import MicroBatch, Sizes, objective
        from trainer.update.policy import completion_logprobs, policy_inputs

        training = self._spec.training
        sizes = Sizes(num_samples, num_tokens, self._spec.max_completion_length)
        learning_rate = self._engine.get_lr()[0]
        sums = dict.fromkeys(SUMMED, 0.0)
        for index, forest in enumerate(forests):
            inputs = policy_inputs(forest, self._device)
            edges, mask, sampled, weights, advantages = (
                torch.tensor(array, device=self._device)
                for array in (
                    forest.completion_edges,
                    forest.mask,
                    forest.sampler_logprobs,
                    forest.weights,
                    forest.advantages,
                )
            )
            self._engine.set_gradient_accumulation_boundary(index == len(forests) - 1)
            edge_logprobs = self._engine(**inputs)
            logprobs = completion_logprobs(edge_logprobs, edges, mask)
            reference = None
            if training.beta:
                with torch.no_grad(), self._untrained() as untrained:
                    reference = completion_logprobs(untrained(**inputs), edges, mask)
            if len(old) == index:
                old.append(logprobs.detach())
            sampled = torch.where(sampled.isnan(), old[index], sampled)  # replayed, not sampled now
            batch = MicroBatch(logprobs, old[index], sampled, reference, advantages, mask, weights)
            part = objective(batch, sizes, training, self._spec.lagged)
            for name in sums:
                sums[name] += float(getattr(part, name))
            # An empty forest has no completions; its edges keep it in the graph, with zero gradient. DeepSpeed
            # averages over ranks, the denominator is global: undo the average.
            self._engine.backward((part.loss + 0.0 * edge_logprobs.sum()) * training.ranks)
        if not math.isfinite(sums["loss"]):
            raise UpdateError(
                f"The loss on rank {self._spec.rank} is {sums['loss']}; the weights are as before this update. "
                f"training.learning_rate {learning_rate:g} is the likely cause: lower it. If not, look for infinite "
                "rewards."
            )
        self.policy_version = None  # until all iterations are done, the weights are of none
        grad_norm = self._step(lambda norm: learning_rate * step_size.of(norm))
        if not math.isfinite(grad_norm):
            raise UpdateError(
                f"The gradient norm on rank {self._spec.rank} is {grad_norm}. training.learning_rate "
                f"{learning_rate:g} is the likely cause: lower it, or use model.dtype float32."
            )
        return RankReport(**sums, grad_norm=grad_norm, learning_rate=learning_rate * step_size.of(grad_norm))

    def release(self) -> None:
        """Gives the GPU back what torch keeps for later, if an engine needs it."""
        if self._spec.yields:
            import torch

            torch.cuda.empty_cache()

    @contextmanager
    def _untrained(self) -> Iterator[Any]:
        """The policy as it was before training: without its adapter, or else a copy."""
        if self._peft is None:
            yield self._reference
            return
        with self._peft.disable_adapter():
            yield self._engine.module

    def _step(self, learning_rate: Callable[[float], float]) -> float:
        """Clips and applies the gradients; their norm before clipping. learning_rate: by that norm. The schedule sets
        it anew after each update."""
        import torch

        zero = self._engine.optimizer

        def set_rate(optimizer: Any, norm: float) -> None:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(norm)

        if self._engine.zero_optimization():
            # DeepSpeed knows the norm just before it has torch's optimizer make its step.
            hook = zero.optimizer.register_step_pre_hook(
                lambda optimizer, *_: set_rate(optimizer, float(zero._global_grad_norm))
            )
            try:
                self._engine.step()
            finally:
                hook.remove()
            return float(self._engine.get_global_grad_norm())
        weights = list(self._engine.module.parameters())  # whole, and their gradients averaged by now
        norm = torch.nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
        torch.nn.utils.clip_grads_with_norm_(weights, self._spec.training.max_grad_norm, norm)
        set_rate(self._engine.optimizer, float(norm))
        self._engine.step()
        return float(norm)

    def weights(self) -> Iterator[tuple[str, Any]]:
        """Every weight by its module's name, whole, in the model's dtype, with its adapter merged.

        With ZeRO stage 3 each is gathered when its turn comes, on all ranks: they must iterate together.
        """
        for weight in lora.weights(self._engine.module.model):
            with _gathered(weight.parts):
                yield weight.name, weight.whole()

    def published(self) -> Iterator[tuple[str, Any]]:
        """The same as the model's own files have them (`trainer.update.file_format`), for engines to load."""
        model = self._engine.module.model
        for group in self._groups():
            with _gathered([part for weight in group for part in weight.parts]):
                yield from file_format.in_files(model, {weight.name: weight.whole() for weight in group})

    def metadata(self) -> list[tuple[str, Any, tuple[int, ...]]]:
        """Name, dtype and whole shape of what `published` yields, without gathering."""
        import torch

        def shape(weight: lora.Weight) -> Any:
            whole = getattr(weight.base, "ds_shape", weight.base.shape)
            return torch.empty(whole, dtype=weight.base.dtype, device="meta")

        return [
            (name, weight.dtype, tuple(weight.shape))
            for group in self._groups()
            for name, weight in file_format.in_files(
                self._engine.module.model, {weight.name: shape(weight) for weight in group}
            )
        ]

    def _groups(self) -> list[list[lora.Weight]]:
        """All weights, those together that files have together."""
        model = self._engine.module.model
        found = {weight.name: weight for weight in lora.weights(model)}
        return [[found[name] for name in group] for group in file_format.together(model, list(found))]

    def save(self, folder: str, policy_version: int) -> None:
        """Writes all that is needed to go on: the optimizer's state, and the model with its tokenizer in Hugging Face
        format into `folder`/model, with an adapter merged into it and, in `model/adapter`, by itself. Rank 0 writes,
        all gather.

        Raises UpdateError: an update failed half-way, or the weights are of another version.
        """
        from trainer.update import optimizer_state
        from trainer.update.model import load_tokenizer

        if self.policy_version != policy_version:
            held = "of no whole update" if self.policy_version is None else f"policy version {self.policy_version}"
            raise UpdateError(
                f"Rank {self._spec.rank} holds weights {held}, and version {policy_version} was to be saved. Go on "
                "from the latest checkpoint."
            )
        writes, model = self._spec.rank == 0, Path(folder) / "model"
        weights = {name: weight.cpu().clone() for name, weight in self.weights() if writes}
        factors = {name: factor for name, factor in self._factors() if writes}
        optimizer_state.save(self._engine, Path(folder), writes)
        if writes:  # last: the other ranks wait for nothing that could fail here
            self._engine.module.model.save_pretrained(model, state_dict=weights)
            load_tokenizer(self._spec.model, self._spec.trust_remote_code, self._spec.revision).save_pretrained(model)
            if self._peft is not None:
                lora.save(self._peft, factors, model / "adapter")

    def _factors(self) -> Iterator[tuple[str, Any]]:
        """Those of the adapter by their names, whole, on the CPU; none without one."""
        for name, parameter in self._engine.module.model.named_parameters():
            if self._peft is not None and lora.is_factor(name):
                with _gathered([parameter]):
                    yield name, parameter.detach().cpu().clone()

    def load(self, folder: str, policy_version: int) -> None:
        """What `save` wrote, whatever the number of ranks then; this rank has made no update yet."""
        from trainer.update import optimizer_state

        optimizer_state.load(self._engine, Path(folder))
        self.policy_version = policy_version


def _gathered(parameters: Sequence[Any]) -> Any:
    """While open they are whole on every rank, which ZeRO stage 3 has cut up."""
    import deepspeed

    cut_up = hasattr(parameters[0], "ds_id")
    return deepspeed.zero.GatheredParameters(list(parameters)) if cut_up else nullcontext()
