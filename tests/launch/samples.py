"""A short run on four prompts, as records."""

from pathlib import Path
from typing import Any, get_type_hints

from configs.derived import derived
from configs.schema import Config
from generation.groups import EXAMPLE_GROUP
from launch.logger.run_folder import RunFolder
from rewards.prompts import EXAMPLE_VERDICT, Verdict
from trainer.diagnosis.alarm import Alarm
from trainer.ending import Result, Stop, Target
from trainer.evaluation import Evaluation, PromptResult
from trainer.metric import declared
from trainer.metrics import StepMetrics
from trainer.scored import EXAMPLE_SCORED_GROUP, ScoredGroup
from trainer.signal.advantages import EXAMPLE_LESSON
from trainer.signal.kinds import Kind
from trainer.signal.right_and_wrong import EXAMPLE_CHOSEN, EXAMPLE_REWARDS_SEEN
from trainer.signal.rollout import EXAMPLE_ROLLOUT
from trainer.signal.treatment import Treated


def config(**sections: Any) -> Config:
    run = {"name": "sample", "max_seconds": 900, "target_reward": 0.995} | sections.pop("run", {})
    return derived(Config.model_validate({"task": {"name": "comparison"}, "run": run} | sections), gpus=0)


_HINTS = {name: get_type_hints(StepMetrics)[name] for name, _ in declared(StepMetrics)}

_DIFFERENT = {name: number if kind is int else number / 100 for number, (name, kind) in enumerate(_HINTS.items(), 1)}
"""A value for every metric, each of its own."""


def metrics(step: int = 1, **fields: Any) -> StepMetrics:
    """A step of a run whose reward climbs from -0.2 to 1.0 in ten steps."""
    reward = min(-0.2 + 0.12 * step, 1.0)
    values: dict[str, Any] = dict(_DIFFERENT)
    values |= {"step": step, "policy_version": step - 1, "reward_mean": reward, "prompts_solved": 6}
    values |= {"groups_learning": 5, "groups_solved": 2, "groups_collapsed": 1, "groups_floor": 0}
    values |= {"completions": 1024, "distinct_completions": 87, "loss": 0.01, "grad_norm": 1.5}
    values |= {"seconds_sample": 4.21, "seconds_score": 0.04, "seconds_update": 6.35, "seconds_publish": 0.52}
    values |= {"seconds_step": 11.2, "seconds_total": 11.2 * step}
    return StepMetrics(**values | fields)


def groups() -> list[Treated]:
    """One of two answers, and one of seven."""
    many = EXAMPLE_GROUP.completions[:1] * 7
    verdicts = (EXAMPLE_VERDICT, *[Verdict(-1.0, "malformed")] * 6)
    seven = ScoredGroup(type(EXAMPLE_GROUP)(EXAMPLE_GROUP.prompt, many, temperature=1.4, policy_version=4), verdicts)
    return [treated(EXAMPLE_SCORED_GROUP, "learning"), treated(seven, "learning")]


def treated(scored: ScoredGroup, kind: Kind) -> Treated:
    """A group as the logger gets it; what it is trained on is not of the group."""
    return Treated(EXAMPLE_ROLLOUT, scored, kind, "reward", EXAMPLE_LESSON, False, False, False, 128)


PAIRS = ((47, 12), (3, 88), (61, 60), (5, 7))


def evaluation(solved: bool) -> Evaluation:
    """All four prompts right, or Yes to every one of them."""
    prompts = tuple(_prompt_result(left, right, solved) for left, right in PAIRS)
    return Evaluation(
        step=10 if solved else 0,
        policy_version=9 if solved else 0,
        prompts=prompts,
        reward_sampled=sum(prompt.sampled_reward for prompt in prompts) / len(prompts),
        accuracy_greedy=sum(prompt.greedy_reward == 1.0 for prompt in prompts) / len(prompts),
        pass_at={1: 1.0, 2: 1.0},
        seen=EXAMPLE_REWARDS_SEEN,
    )


def result(target: Target = Target.REACHED) -> Result:
    return Result(
        target=target,
        stop=Stop.TARGET,
        stopped="The mean sampled reward of all 4 prompts reached 0.995.",
        verdict="The mean sampled reward of all 4 prompts reached 0.995, from 0.062 to 1.000.",
        diagnosis=None,
        steps=10,
        seconds=112.0,
        policy_version=9,
        before=evaluation(solved=False),
        after=evaluation(solved=True),
        held_out=None,
        alarms=(Alarm("logprob_gap", 2, "logprob_gap is 0.3."),),
        without_best=EXAMPLE_CHOSEN,
        never_right=(),
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
        folder.summary(result(), its, ["While sampling: engine 1 is lost."])
    return folder.path
