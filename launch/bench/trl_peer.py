"""Steps of TRL's GRPOTrainer, as a process: `python -m launch.bench.trl_peer JOB.json STEPS.json`."""

import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generation.groups import tree_nodes
from launch.bench.measure import Stopwatch
from launch.bench.sweep import LONG


@dataclass(frozen=True)
class Job:
    """prompts: chat messages. micro_batch: rows in one forward and backward pass. repeats: steps after a warm-up."""

    model: str
    dtype: str
    gpu: bool
    prompts: list[list[dict[str, str]]]
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


def steps(job: Job, folder: str) -> list[dict[str, float]]:
    """The measured steps, as fields of a Measurement. TRL's own settings but where ours say otherwise: no KL term,
    the loss named grpo, nothing saved or reported."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

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

    samples = job.num_generations * len(job.prompts)
    trainer = GRPOTrainer(
        model=job.model,
        reward_funcs=reward,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in job.prompts]),
        callbacks=[Watch()],
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
    )
    trainer.train()
    return done


def _counts(sampled: list[list[int]], num_generations: int) -> dict[str, float]:
    groups = [sampled[first : first + num_generations] for first in range(0, len(sampled), num_generations)]
    return {
        "samples": len(sampled),
        "tokens": sum(map(len, sampled)),
        "distinct_completions": sum(len(set(map(tuple, group))) for group in groups),
        "distinct_tokens": sum(map(tree_nodes, groups)),
    }


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_text(json.dumps(steps(Job(**json.loads(source.read_text())), str(source.parent))))
