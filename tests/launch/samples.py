"""A short run on four prompts, as records."""

from pathlib import Path
from typing import Any

from configs.schema import Config
from generation.groups import EXAMPLE_GROUP
from launch.logger.run_folder import RunFolder
from rewards.prompts import EXAMPLE_VERDICT, Verdict
from trainer.diagnosis.alarm import Alarm
from trainer.metrics import Evaluation, PromptResult, Result, StepMetrics
from trainer.scored import EXAMPLE_SCORED_GROUP, ScoredGroup
from trainer.signal.kinds import Kind


def config(**sections: Any) -> Config:
    run = {"name": "sample", "max_seconds": 900, "target_reward": 0.995} | sections.pop("run", {})
    return Config.model_validate({"task": {"name": "comparison"}, "run": run} | sections)


def metrics(step: int = 1, **fields: Any) -> StepMetrics:
    """A step of a run whose reward climbs from -0.2 to 1.0 in ten steps."""
    reward = min(-0.2 + 0.12 * step, 1.0)
    values: dict[str, Any] = {
        "step": step,
        "policy_version": step - 1,
        "reward_mean": reward,
        "reward_std": 0.4,
        "groups_learning": 5,
        "groups_solved": 2,
        "groups_collapsed": 1,
        "groups_floor": 0,
        "groups_trained": 5,
        "groups_spread": 1,
        "groups_rescued": 1,
        "prompts_solved": 6,
        "completions": 1024,
        "distinct_completions": 87,
        "truncated": 0.01,
        "malformed": 0.02,
        "correct": 0.8,
        "temperature_max": 1.4,
        "policy_shift": 0.8,
        "tree_tokens": 2345,
        "dense_tokens": 60000,
        "loss": 0.01,
        "kl": 0.0,
        "clip_fraction": 0.0,
        "logprob_gap": 0.003,
        "grad_norm": 1.5,
        "learning_rate": 2e-5,
        "seconds_sample": 4.21,
        "seconds_score": 0.04,
        "seconds_update": 6.35,
        "seconds_publish": 0.52,
        "seconds_step": 11.2,
        "seconds_total": 11.2 * step,
    }
    return StepMetrics(**values | fields)


def groups() -> list[tuple[ScoredGroup, Kind]]:
    """One of two answers, and one of seven."""
    many = EXAMPLE_GROUP.completions[:1] * 7
    verdicts = (EXAMPLE_VERDICT, *[Verdict(-1.0, "malformed")] * 6)
    seven = ScoredGroup(type(EXAMPLE_GROUP)(EXAMPLE_GROUP.prompt, many, temperature=1.4, policy_version=4), verdicts)
    return [(EXAMPLE_SCORED_GROUP, "learning"), (seven, "learning")]


PAIRS = ((47, 12), (3, 88), (61, 60), (5, 7))


def evaluation(solved: bool) -> Evaluation:
    """All four prompts right, or Yes to every one of them."""
    prompts = tuple(_prompt_result(left, right, solved) for left, right in PAIRS)
    return Evaluation(
        policy_version=9 if solved else 0,
        prompts=prompts,
        reward_sampled=sum(prompt.sampled_reward for prompt in prompts) / len(prompts),
        accuracy_greedy=sum(prompt.greedy_reward == 1.0 for prompt in prompts) / len(prompts),
    )


def result(reached: bool | None = True) -> Result:
    return Result(
        reached=reached,
        stopped="The mean sampled reward of all 4 prompts reached 0.995.",
        gave_up=False,
        verdict="The mean sampled reward of all 4 prompts reached 0.995, from 0.062 to 1.000.",
        diagnosis=None,
        steps=10,
        seconds=112.0,
        policy_version=9,
        before=evaluation(solved=False),
        after=evaluation(solved=True),
        alarms=(Alarm("logprob_gap", 2, "logprob_gap is 0.3."),),
    )


def _prompt_result(left: int, right: int, solved: bool) -> PromptResult:
    truth = "Yes" if left > right else "No"
    greedy = truth if solved else "Yes"
    return PromptResult(
        prompt_id=f"comparison-{left}-{right}",
        question=f"Is {left} greater than {right}? Answer Yes or No.",
        greedy=greedy,
        greedy_reward=1.0 if greedy == truth else -0.5,
        sampled_reward=1.0 if solved else 0.25 if greedy == truth else -0.125,
        solved=solved,
    )


def written(directory: Path, name: str = "sample", steps: int = 3, finished: bool = True) -> Path:
    """The folder of such a run, as a run writes it."""
    its = config(run={"directory": str(directory), "name": name})
    folder = RunFolder.create(its)
    for step in range(1, steps + 1):
        folder.step(metrics(step), groups())
    if finished:
        folder.summary(result(), its)
    return folder.path
