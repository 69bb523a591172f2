"""Evaluation: the policy on the data set, greedy and at the training temperature."""

from dataclasses import dataclass

from generation.engine import SampleRequest, seed_of
from rewards.prompts import SAME_REWARD
from trainer.ports import Generator, Scorer
from trainer.run import Run
from trainer.scored import ScoredGroup
from trainer.signal.kinds import classify
from trainer.signal.right_and_wrong import RewardsSeen


@dataclass(frozen=True)
class PromptResult:
    """One prompt in an evaluation.

    question: the last user message. greedy: the text at temperature 0, and its reward.
    sampled_reward: mean at the training temperature. solved: the greedy answer and every sample are best.
    """

    prompt_id: str
    question: str
    greedy: str
    greedy_reward: float
    sampled_reward: float
    solved: bool


@dataclass(frozen=True)
class Evaluation:
    """The policy on the data set.

    reward_sampled: mean over prompts at the training temperature.
    accuracy_greedy: share of prompts whose greedy answer has the best reward.
    seen: the rewards of all that was sampled.
    """

    policy_version: int
    prompts: tuple[PromptResult, ...]
    reward_sampled: float
    accuracy_greedy: float
    seen: RewardsSeen

    @property
    def prompts_solved(self) -> int:
        return sum(prompt.solved for prompt in self.prompts)


def evaluate(run: Run, generator: Generator, scorer: Scorer, label: str) -> Evaluation:
    """Samples `num_generations` and one greedy answer of the first `run.evaluation_prompts` prompts.

    label: makes the random numbers of this evaluation its own.
    """
    chosen, best_reward = run.evaluated, run.best_reward
    seed, sampling = run.config.seed, run.config.sampling

    def score(count: int, temperature: float) -> list[ScoredGroup]:
        """A step's worth of prompts at a time, so that the timeout of a step fits."""
        requests = [SampleRequest(p, count, temperature, seed_of(seed, label, p.id)) for p in chosen]
        size = sampling.prompts_per_step
        parts = [requests[first : first + size] for first in range(0, len(requests), size)]
        return [scored for part in parts for scored in scorer.score(generator.sample(part))]

    sampled, greedy = score(sampling.num_generations, sampling.temperature), score(1, 0.0)
    results = tuple(
        PromptResult(
            prompt_id=prompt.id,
            question=prompt.messages[-1]["content"],
            greedy=once.group.completions[0].text,
            greedy_reward=once.reward_mean,
            sampled_reward=many.reward_mean,
            solved=_is_best(once.reward_mean, best_reward) and classify(many, best_reward) == "solved",
        )
        for prompt, many, once in zip(chosen, sampled, greedy, strict=True)
    )
    return Evaluation(
        policy_version=sampled[0].group.policy_version,
        prompts=results,
        reward_sampled=sum(r.sampled_reward for r in results) / len(results),
        accuracy_greedy=sum(_is_best(r.greedy_reward, best_reward) for r in results) / len(results),
        seen=RewardsSeen().after([*sampled, *greedy], best_reward),
    )


def reaches(evaluation: Evaluation, target_reward: float) -> bool:
    """Whether both the mean sampled reward and the mean greedy reward are at the target or above."""
    greedy = sum(result.greedy_reward for result in evaluation.prompts) / len(evaluation.prompts)
    return min(evaluation.reward_sampled, greedy) >= target_reward - SAME_REWARD


def _is_best(reward: float, best_reward: float) -> bool:
    return reward >= best_reward - SAME_REWARD
