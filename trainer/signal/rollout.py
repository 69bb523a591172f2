"""A rollout: the way from the curriculum to a group begins with it."""

from collections.abc import Sequence
from dataclasses import dataclass

from generation.groups import EXAMPLE_GROUP, Completion, Group
from rewards.prompts import Prompt


@dataclass(frozen=True)
class Rollout:
    """A prompt's turn in a step. prompt: its number in the data set. temperature: to sample it at. misses: its
    rollouts in a row without a right answer. num_generations: samples that it is worth. expected_tokens: of the
    distinct completions of the prompt's latest group; 0 if there is none."""

    prompt: int
    temperature: float
    misses: int
    num_generations: int
    expected_tokens: int = 0


@dataclass(frozen=True)
class Sampled:
    """A rollout and its group, which is not scored yet. completions, policy_version: the group's."""

    rollout: Rollout
    completions: tuple[Completion, ...]
    policy_version: int

    @classmethod
    def of(cls, rollout: Rollout, group: Group) -> "Sampled":
        """The group by its prompt's number, as a state can hold it."""
        return cls(rollout, group.completions, group.policy_version)

    def group(self, prompts: Sequence[Prompt]) -> Group:
        """The group. prompts: the data set."""
        prompt = prompts[self.rollout.prompt]
        return Group(prompt, self.completions, self.rollout.temperature, self.policy_version)


EXAMPLE_ROLLOUT = Rollout(prompt=3, temperature=1.4, misses=2, num_generations=128, expected_tokens=190)
EXAMPLE_SAMPLED = Sampled(EXAMPLE_ROLLOUT, EXAMPLE_GROUP.completions, EXAMPLE_GROUP.policy_version)
