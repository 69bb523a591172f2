"""What stays the same from a run's first step to its last."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from configs.schema import Config
from rewards.prompts import Prompt

DType = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Run:
    """prompts: the data set; a prompt's number is its place there. best_reward: the task's. dtype: of the weights.
    held_out: prompts that are evaluated and never trained on. reward_names: of the functions whose sum the reward is.
    """

    config: Config
    prompts: tuple[Prompt, ...]
    best_reward: float
    dtype: DType
    held_out: tuple[Prompt, ...] = ()
    reward_names: tuple[str, ...] = ()

    @cached_property
    def numbers(self) -> Mapping[str, int]:
        """Prompt id -> number."""
        return {prompt.id: number for number, prompt in enumerate(self.prompts)}

    @property
    def evaluated(self) -> tuple[Prompt, ...]:
        """Those of the prompts that are evaluated."""
        return self.prompts[: self.config.run.evaluation_prompts]
