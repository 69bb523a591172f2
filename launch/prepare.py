"""Everything that can be read, checked and refused before Ray or vLLM starts."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

from configs.derived import derived
from configs.errors import ConfigError
from configs.machine import machine_bytes
from configs.schema import Config
from launch import hardware, preflight
from launch.fitted import fitted
from launch.logger import tracking
from launch.memory_plan import Hardware, Load, MemoryPlan, memory_plan, refuse_shortage
from launch.processes.address import cluster_address
from rewards.prompts import Message
from rewards.task import Task, Tokenize, load_task
from trainer.update.lora import adapter_size
from trainer.update.model import (
    ModelError,
    context_length,
    encoder,
    linear_layers,
    load_config,
    load_tokenizer,
    refuse_untrainable,
    resolve,
    shape_of,
    weight_shapes,
)
from trainer.update.model_shape import ModelShape


@dataclass(frozen=True)
class Prepared:
    """Checked input of a run.

    config: with a value for every setting that depends on where the run takes place. gpus: of this machine, or of the
    configured cluster; 0 where processes run on CPUs.
    model: a folder or hub id. revision: of a hub id, the commit that all processes load.
    context_length: tokens of prompt and completion together that engines allow. shape: of the model. adapter: weights
    of its LoRA adapter, 0 without one.
    """

    config: Config
    gpus: int
    model: str
    revision: str | None
    context_length: int
    shape: ModelShape
    adapter: int
    task: Task

    @property
    def host_bytes(self) -> float:
        """Memory of the machine; infinite where there may be several."""
        return machine_bytes() if cluster_address(self.config) is None else math.inf

    def memory_plan(self, gpu_bytes: float | None, trains: bool) -> MemoryPlan:
        """At whole micro-batches. gpu_bytes: of the smallest GPU; None on CPUs. trains: whether there are ranks."""
        dtype = hardware.dtype(self.config.model.dtype, gpu_bytes is not None)
        load = Load(self.context_length, self.config.training.micro_batch_tokens, bytes_per_node=None)
        machine = Hardware(dtype, self.gpus, gpu_bytes, self.host_bytes)
        return memory_plan(self.config, self.shape, machine, load, trains, self.adapter)


def gpus_of(config: Config) -> int:
    """GPUs that the run can use: of all machines of its cluster, or of this one.

    Raises ConfigError: the cluster's address is none, or does not answer.
    """
    address = cluster_address(config)
    if address is None:
        return hardware.gpus()
    from launch.processes import cluster  # only now, for it imports Ray

    return cluster.gpus(address)


def prepare(
    config: Config,
    trains: bool = False,
    trainable: bool = True,
    refuse: Callable[[Config], None] = lambda _: None,
) -> Prepared:
    """Reads model and data and checks them against the configuration, the quick before the slow.

    trains: whether ranks are going to be started too. trainable: whether it must be possible to train the model.
    refuse: raises ConfigError for a whole configuration that is of no use, before anything is read.
    Raises ConfigError, TaskError: the input cannot be used; the message says why and what to do.
    """
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    tracking.refuse_missing_wandb(config)
    gpus = gpus_of(config)
    asked, config = config, derived(config, gpus)
    refuse(config)
    trust = config.model.trust_remote_code
    preflight.refuse_too_few_gpus(config, gpus, trains)
    if trains:
        preflight.refuse_sleep(config, gpus)

    @cache
    def encode() -> Tokenize:
        return encoder(load_tokenizer(model.folder, trust), config.model.chat_template_kwargs)

    def tokenize(messages: Sequence[Message]) -> Sequence[int]:
        """The tokenizer is loaded for the first prompt: much of what is wrong with a task is refused before."""
        return encode()(messages)

    try:
        model = resolve(config.model.path, config.model.revision, config.cluster.start_timeout)
        shapes = weight_shapes(model.folder)
        limit = context_length(model.folder, trust)
        layers = linear_layers(model.folder, shapes) if shapes else {}
        if shapes:
            preflight.refuse_unknown_targets(config, layers)
        parameters = sum(map(math.prod, shapes.values())) if shapes else None
        adapter = adapter_size(layers, config.training)
        if cluster_address(config) is None:
            preflight.refuse_too_large(config, parameters, gpus > 0, trains, adapter)
        task = load_task(config.task, config.seed, tokenize, config.run.evaluation_prompts)
        preflight.refuse_misfits(config, task.prompts, limit, gpus > 0, task.held_out)
        preflight.refuse_unknown_arguments(config)
        # It checks all other values; last, because it takes seconds to import torch.
        whole = load_config(model.folder, trust)
        if trainable:
            refuse_untrainable(model.folder, whole, config.training, trust)
        text = whole.get_text_config()
        preflight.refuse_uneven_heads(config, getattr(text, "num_attention_heads", None))
        shape = shape_of(model.folder, text, parameters)
    except ModelError as error:
        raise ConfigError(str(error)) from error
    longest = max(len(prompt.token_ids) for prompt in (*task.prompts, *task.held_out))
    needed = longest + config.sampling.max_completion_length
    length = config.engine.max_model_len or min(limit, needed + 1)
    prepared = Prepared(config, gpus, model.name, model.revision, length, shape, adapter, task)
    if cluster_address(config) is not None:
        return prepared  # its machines are known once it is there
    gpu_bytes = hardware.gpu_bytes() if gpus else None
    config = fitted(asked.training, config, lambda one: replace(prepared, config=one).memory_plan(gpu_bytes, True))
    prepared = replace(prepared, config=config)
    if gpus:
        refuse_shortage(prepared.memory_plan(gpu_bytes, trains), config)
    return prepared
