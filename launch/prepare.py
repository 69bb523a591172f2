"""Everything that can be read, checked and refused before Ray or vLLM starts."""

import os
from dataclasses import dataclass

from configs.errors import ConfigError
from configs.schema import Config
from launch import hardware, preflight
from launch.logger import tracking
from launch.processes.address import cluster_address
from rewards.task import Task, load_task
from trainer.update.model import ModelError, context_length, encoder, load_tokenizer, resolve


@dataclass(frozen=True)
class Prepared:
    """Checked input of a run.

    model: a folder or hub id. context_length: tokens of prompt and completion together that engines allow.
    """

    config: Config
    model: str
    context_length: int
    task: Task


def prepare(config: Config) -> Prepared:
    """Reads model and data and checks them against the configuration.

    Raises ConfigError, TaskError: the input cannot be used; the message says why and what to do.
    """
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    tracking.refuse_missing_wandb(config)
    gpu = hardware.has_gpu() or bool(cluster_address(config))
    trust = config.model.trust_remote_code
    try:
        model = resolve(config.model.path, trust)
        tokenizer = load_tokenizer(model, trust)
        limit = context_length(model, trust)
    except ModelError as error:
        raise ConfigError(str(error)) from error
    task = load_task(config.task, config.seed, encoder(tokenizer))
    preflight.refuse_misfits(config, task.prompts, limit, gpu)
    longest = max(len(prompt.token_ids) for prompt in task.prompts)
    needed = longest + config.sampling.max_completion_length
    return Prepared(config, model, config.engine.max_model_len or min(limit, needed + 1), task)
