"""Everything that can be read, checked and refused before Ray or vLLM starts."""

import os
from dataclasses import dataclass

from configs.derived import derived
from configs.errors import ConfigError
from configs.schema import Config
from launch import preflight
from launch.logger import tracking
from launch.processes import cluster
from launch.processes.address import cluster_address
from rewards.task import Task, load_task
from trainer.update.model import (
    ModelError,
    context_length,
    encoder,
    load_tokenizer,
    parameter_count,
    resolve,
)


@dataclass(frozen=True)
class Prepared:
    """Checked input of a run.

    config: with a value for every setting that depends on where the run takes place. gpus: of this machine, or of the
    configured cluster; 0 where processes run on CPUs.
    model: a folder or hub id. revision: of a hub id, the commit that all processes load.
    context_length: tokens of prompt and completion together that engines allow.
    """

    config: Config
    gpus: int
    model: str
    revision: str | None
    context_length: int
    task: Task


def prepare(config: Config, trains: bool = False) -> Prepared:
    """Reads model and data and checks them against the configuration.

    trains: whether ranks are going to be started too.
    Raises ConfigError, TaskError: the input cannot be used; the message says why and what to do.
    """
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    tracking.refuse_missing_wandb(config)
    gpus = cluster.gpus(config)
    config = derived(config, gpus)
    trust = config.model.trust_remote_code
    preflight.refuse_too_few_gpus(config, gpus, trains)
    try:
        model = resolve(config.model.path, config.model.revision, config.cluster.start_timeout)
        parameters = parameter_count(model.folder)
        if cluster_address(config) is None:
            preflight.refuse_too_large(config, parameters, gpus > 0, trains)
        limit = context_length(model.folder, trust)
        tokenizer = load_tokenizer(model.folder, trust)
    except ModelError as error:
        raise ConfigError(str(error)) from error
    task = load_task(
        config.task, config.seed, encoder(tokenizer, config.model.chat_template_kwargs), config.run.evaluation_prompts
    )
    preflight.refuse_misfits(config, task.prompts, limit, gpus > 0, task.held_out)
    longest = max(len(prompt.token_ids) for prompt in (*task.prompts, *task.held_out))
    needed = longest + config.sampling.max_completion_length
    length = config.engine.max_model_len or min(limit, needed + 1)
    return Prepared(config, gpus, model.name, model.revision, length, task)
