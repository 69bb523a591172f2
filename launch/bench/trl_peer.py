"""TRL's GRPOTrainer, as a process: timed steps on random rewards, or a run that learns a configured task.

`python -m launch.bench.trl_peer JOB.json STEPS.json [CONFIG.yaml]`
"""

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from configs.loading import parse
from generation.groups import tree_nodes
from launch import hardware
from launch.bench.measure import Stopwatch, environment
from launch.bench.sweep import LONG
from launch.prepare import Prepared, prepare
from rewards.prompts import Prompt


@dataclass(frozen=True)
class Job:
    """prompts: chat messages. prompts_per_step: of them, in turn. micro_batch: rows in one forward and backward pass.
    repeats: steps after a warm-up."""

    model: str
    dtype: str
    gpu: bool
    prompts: list[list[dict[str, str]]]
    prompts_per_step: int
    num_generations: int
    micro_batch: int
    repeats: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    max_completion_length: int
    learning_rate: float
    gradient_checkpointing: bool
    seed: int


def require() -> None:
    """Raises ConfigError: TRL is not installed."""
    if find_spec("trl") is None:
        raise ConfigError(
            "--peer trl needs the package trl, which is not installed. Install it with "
            "`.venv/bin/uv pip install --python .venv/bin/python trl==1.13.0`, or leave --peer out."
        )


def job_of(
    prepared: Prepared,
    prompts: Sequence[Prompt],
    prompts_per_step: int,
    num_generations: int,
    temperature: float,
    repeats: int,
) -> Job:
    """The same work for TRL, with as many rows in a pass as `micro_batch_tokens` allows."""
    config, gpu = prepared.config, hardware.has_gpu()
    width = max(len(prompt.token_ids) for prompt in prompts) + config.sampling.max_completion_length
    rows, samples = max(1, config.training.micro_batch_tokens // width), num_generations * prompts_per_step
    return Job(
        model=prepared.model,
        dtype=hardware.dtype(config.model.dtype, gpu),
        gpu=gpu,
        prompts=[[dict(message) for message in prompt.messages] for prompt in prompts],
        prompts_per_step=prompts_per_step,
        num_generations=num_generations,
        micro_batch=max(n for n in range(1, rows + 1) if samples % n == 0),
        repeats=repeats,
        temperature=temperature,
        top_p=config.sampling.top_p,
        top_k=config.sampling.top_k,
        min_p=config.sampling.min_p,
        max_completion_length=config.sampling.max_completion_length,
        learning_rate=config.training.learning_rate,
        gradient_checkpointing=config.training.gradient_checkpointing,
        seed=config.seed,
    )


LOG = "trl.log"
"""What the process says, in its folder."""


def started(job: Job, folder: Path, target: Path, *config: Path, threads: int | None) -> "subprocess.Popen[bytes]":
    """The process, which writes into `target`. folder: for its files, `LOG` among them."""
    source = folder / "job.json"
    source.write_text(json.dumps(asdict(job)))
    with (folder / LOG).open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "launch.bench.trl_peer", *map(str, (source, target, *config))],
            env=environment() | ({"OMP_NUM_THREADS": str(threads)} if threads else {}),
            stdout=log,
            stderr=log,
        )


def said(folder: Path) -> str:
    """The end of `LOG`."""
    return (folder / LOG).read_text(errors="replace")[-4000:]


def steps(job: Job, folder: str) -> list[dict[str, float]]:
    """The measured steps, as fields of a Measurement."""
    from transformers import TrainerCallback

    draw = random.Random(job.seed)
    sampled: list[list[int]] = []
    done: list[dict[str, float]] = []

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        sampled[:] = completion_ids
        return [draw.random() for _ in completion_ids]

    class Watch(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.watch = Stopwatch()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            seconds, peak = self.watch.read()
            if state.global_step > 1:
                done.append({"seconds": seconds, "peak_mib": peak, **_counts(sampled, job.num_generations)})
                control.should_training_stop = seconds > LONG

    _train(job, folder, reward, [Watch()])
    return done


def learn(job: Job, folder: str, config: Path, target: Path) -> None:
    """Trains on the configured task; the mean reward of each step's samples goes into `target`, a line each."""
    prepared = prepare(parse(config, []))
    task, longest = prepared.task, job.max_completion_length

    def reward(completions: Any, completion_ids: list[list[int]], index: list[int], **_: Any) -> list[float]:
        """`index`: of each completion's prompt."""
        rewards = [
            task.score(task.prompts[prompt], [message[0]["content"]], [len(tokens) >= longest], [tokens])[0].reward
            for message, tokens, prompt in zip(completions, completion_ids, index, strict=True)
        ]
        with target.open("a") as file:
            file.write(f"{sum(rewards) / len(rewards)}\n")
        return rewards

    _train(job, folder, reward, [])


def _train(job: Job, folder: str, reward: Any, callbacks: list[Any]) -> None:
    """TRL's own settings but where ours say otherwise: no KL term, the loss named grpo, nothing saved or reported."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    samples = job.num_generations * job.prompts_per_step
    rows = [{"prompt": prompt, "index": index} for index, prompt in enumerate(job.prompts)]
    GRPOTrainer(
        model=job.model,
        reward_funcs=reward,
        train_dataset=Dataset.from_list(rows),
        callbacks=callbacks,
        args=GRPOConfig(
            output_dir=folder,
            model_init_kwargs={"dtype": job.dtype},
            use_cpu=not job.gpu,
            bf16=job.dtype == "bfloat16",
            gradient_checkpointing=job.gradient_checkpointing,
            per_device_train_batch_size=job.micro_batch,
            gradient_accumulation_steps=samples // job.micro_batch,
            num_generations=job.num_generations,
            max_completion_length=job.max_completion_length,
            temperature=job.temperature,
            top_p=job.top_p,
            top_k=job.top_k,
            min_p=job.min_p or None,
            beta=0.0,
            loss_type="grpo",
            max_steps=job.repeats + 1,
            learning_rate=job.learning_rate,
            lr_scheduler_type="constant",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=job.seed,
        ),
    ).train()


def _counts(sampled: list[list[int]], num_generations: int) -> dict[str, float]:
    groups = [sampled[first : first + num_generations] for first in range(0, len(sampled), num_generations)]
    return {
        "samples": len(sampled),
        "tokens": sum(map(len, sampled)),
        "distinct_completions": sum(len(set(map(tuple, group))) for group in groups),
        "distinct_tokens": sum(map(tree_nodes, groups)),
    }


if __name__ == "__main__":
    source, target, *config = map(Path, sys.argv[1:])
    job = Job(**json.loads(source.read_text()))
    if config:
        learn(job, str(source.parent), config[0], target)
    else:
        target.write_text(json.dumps(steps(job, str(source.parent))))
