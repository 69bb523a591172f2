"""Everything that can be read, checked and refused before Ray or vLLM starts."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from configs.errors import ConfigError
from configs.schema import Config
from launch import hardware, preflight
from launch.logger import tracking
from launch.processes.address import cluster_address
from rewards.prompts import Message
from rewards.task import Task, Tokenize, load_task
from trainer.update.model import (
    ModelError,
    context_length,
    encoder,
    load_config,
    load_tokenizer,
    parameter_count,
    resolve,
)


@dataclass(frozen=True)
class Prepared:
    """Checked input of a run.

    model: a folder or hub id. revision: of a hub id, the commit that all processes load.
    context_length: tokens of prompt and completion together that engines allow.
    """

    config: Config
    model: str
    revision: str | None
    context_length: int
    task: Task


def prepare(config: Config, trains: bool = False) -> Prepared:
    """Reads model and data and checks them against the configuration, the quick before the slow.

    trains: whether ranks are going to be started too.
    Raises ConfigError, TaskError: the input cannot be used; the message says why and what to do.
    """
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    tracking.refuse_missing_wandb(config)
    cluster = cluster_address(config)
    trust = config.model.trust_remote_code

    @cache
    def encode() -> Tokenize:
        return encoder(load_tokenizer(model.folder, trust), config.model.chat_template_kwargs)

    def tokenize(messages: Sequence[Message]) -> Sequence[int]:
        """The tokenizer is loaded for the first prompt: much of what is wrong with a task is refused before."""
        return encode()(messages)

    try:
        model = resolve(config.model.path, config.model.revision, config.cluster.start_timeout)
        parameters = parameter_count(model.folder)
        if cluster is None:
            preflight.refuse_too_large(config, parameters, hardware.has_gpu(), trains)
        limit = context_length(model.folder, trust)
        task = load_task(config.task, config.seed, tokenize, config.run.evaluation_prompts)
        gpu = hardware.has_gpu() or cluster is not None
        preflight.refuse_misfits(config, task.prompts, limit, gpu, task.held_out)
        load_config(model.folder, trust)  # checks all other values; last, because it takes seconds to import torch
    except ModelError as error:
        raise ConfigError(str(error)) from error
    longest = max(len(prompt.token_ids) for prompt in (*task.prompts, *task.held_out))
    needed = longest + config.sampling.max_completion_length
    return Prepared(config, model.name, model.revision, config.engine.max_model_len or min(limit, needed + 1), task)
