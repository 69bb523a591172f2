"""How an evaluation is made."""

from collections.abc import Sequence
from dataclasses import dataclass

from generation.engine import SampleRequest, seed_of
from rewards.prompts import SAME_REWARD, Prompt
from trainer.evaluation import Evaluation, PromptResult, doubling, mean, pass_at
from trainer.ports import Sampler, Scorer
from trainer.run import Run
from trainer.scored import ScoredGroup
from trainer.signal.group_size import hardly_repeats
from trainer.signal.kinds import classify
from trainer.signal.right_and_wrong import RewardsSeen

AT_ONCE = 4096
"""Samples, whose unfinished beginnings engines keep in memory."""


@dataclass(frozen=True)
class Answers:
    """To the prompts of an evaluation: [prompts] `num_generations` samples of each, and one greedy answer."""

    sampled: tuple[ScoredGroup, ...]
    greedy: tuple[ScoredGroup, ...]


def evaluate(
    run: Run, prompts: Sequence[Prompt], generator: Sampler, scorer: Scorer, label: str, step: int = 0
) -> Evaluation:
    """What the policy can do on the prompts after `step` steps. See `answer`."""
    return evaluation_of(run, answer(run, prompts, generator, scorer, label), step)


def answer(
    run: Run, prompts: Sequence[Prompt], generator: Sampler, scorer: Scorer, label: str, *, thrifty: bool = False
) -> Answers:
    """The policy's answers to the prompts.

    label: makes the random numbers of this evaluation its own. thrifty: of a prompt whose completions hardly repeat,
    no more than `training.max_distinct_completions`.
    """
    sampling = run.config.sampling

    def score(some: Sequence[Prompt], count: int, temperature: float) -> list[ScoredGroup]:
        """As many prompts at a time as engines can hold, and that is at least as many as a step has."""
        size = max(sampling.prompts_per_step, AT_ONCE // count)
        seeds = {prompt.id: seed_of(run.config.seed, label, prompt.id) for prompt in some}
        requests = [SampleRequest(prompt, count, temperature, seeds[prompt.id]) for prompt in some]
        parts = [requests[first : first + size] for first in range(0, len(requests), size)]
        return [scored for part in parts for scored in scorer.score(generator.sample(part))]

    def score_samples() -> list[ScoredGroup]:
        full, few = sampling.num_generations, run.config.training.max_distinct_completions
        if not thrifty or few is None or few >= full:
            return score(prompts, full, sampling.temperature)
        looks = score(prompts, few, sampling.temperature)
        cheap = [index for index, look in enumerate(looks) if not hardly_repeats(run.config, look)]
        groups = score([prompts[index] for index in cheap], full, sampling.temperature)
        for index, group in zip(cheap, groups, strict=True):
            looks[index] = group
        return looks

    return Answers(tuple(score_samples()), tuple(score(prompts, 1, 0.0)))


def evaluation_of(run: Run, answers: Answers, step: int = 0) -> Evaluation:
    """What the answers say of the policy after `step` steps."""
    best_reward, sampling, sampled = run.best_reward, run.config.sampling, answers.sampled
    results = tuple(
        PromptResult(
            prompt_id=many.group.prompt.id,
            question=many.group.prompt.messages[-1]["content"],
            greedy=once.group.completions[0].text,
            greedy_reward=once.reward_mean,
            sampled_reward=many.reward_mean,
            solved=_is_best(once.reward_mean, best_reward) and classify(many, best_reward) == "solved",
        )
        for many, once in zip(sampled, answers.greedy, strict=True)
    )
    right = [int(group.group.counts[group.right(best_reward)].sum()) for group in sampled]
    sizes = [group.group.num_generations for group in sampled]
    return Evaluation(
        step=step,
        policy_version=sampled[0].group.policy_version if sampled else 0,
        prompts=results,
        reward_sampled=mean([r.sampled_reward for r in results]),
        accuracy_greedy=mean([_is_best(r.greedy_reward, best_reward) for r in results]),
        pass_at={
            k: mean([pass_at(k, size, one) for size, one in zip(sizes, right, strict=True)])
            for k in doubling(min(sizes, default=sampling.num_generations))
        },
        seen=RewardsSeen().after([*sampled, *answers.greedy], best_reward),
    )


def _is_best(reward: float, best_reward: float) -> bool:
    return reward >= best_reward - SAME_REWARD
