"""The model card: README.md of a trained model, in the form of the Hugging Face hub."""

from collections.abc import Mapping, Sequence

from configs.loading import dump
from configs.schema import Config
from trainer.ending import Result
from trainer.evaluation import Evaluation

CURVE = 20
"""Rows of the table of rewards at most."""


def model_card(config: Config, result: Result, rewards: Sequence[tuple[int, float]]) -> str:
    """rewards: (step, mean reward) of every step."""
    return f"""---
library_name: transformers
tags:
- grpo
- cohort
---

# {config.run.name}

{_code(config.model.path)}, trained with GRPO by Cohort on {_task(config)}: {result.steps} steps of
{config.sampling.prompts_per_step} prompts with {config.sampling.num_generations} completions each. {result.stopped}

## What it can do

| prompts | | mean reward | greedy accuracy | pass@{_most(result)} |
|---|---|---|---|---|
{"".join(_rows(result))}
## Reward by step

| step | mean reward |
|---|---|
{"".join(f"| {step} | {reward:.3f} |{chr(10)}" for step, reward in _thinned(rewards))}
## Settings

```yaml
{dump(config)}```
"""


def _task(config: Config) -> str:
    if config.task.name:
        return f"the built-in task {_code(config.task.name)}"
    return f"{_code(config.task.dataset or '')}, judged by {', '.join(map(_code, config.task.reward))}"


def _rows(result: Result) -> list[str]:
    return [_row(name, evaluation, _most(result)) for name, evaluation in _evaluations(result).items()]


def _most(result: Result) -> int:
    """The largest k of pass@k that every evaluation has: one before training may have taken fewer samples."""
    every = [result.after, *_evaluations(result).values()]
    return max(set.intersection(*(set(evaluation.pass_at) for evaluation in every)))


def _evaluations(result: Result) -> Mapping[str, Evaluation]:
    named: Mapping[str, Evaluation | None] = {
        "trained on | before": result.before,
        "trained on | after": result.after,
        "held out | before": result.held_out.before if result.held_out else None,
        "held out | after": result.held_out.latest if result.held_out else None,
    }
    return {name: evaluation for name, evaluation in named.items() if evaluation and evaluation.prompts}


def _row(name: str, evaluation: Evaluation, most: int) -> str:
    chance = evaluation.pass_at[most]
    return f"| {name} | {evaluation.reward_sampled:.3f} | {evaluation.accuracy_greedy:.0%} | {chance:.3f} |\n"


def _thinned(rewards: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    every = max(1, -(-len(rewards) // CURVE))
    return [one for place, one in enumerate(rewards, 1) if place % every == 0 or place == len(rewards)]


def _code(text: str) -> str:
    return f"`{text.replace('`', chr(39))}`"
