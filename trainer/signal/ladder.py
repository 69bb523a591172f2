"""The temperature ladder that rescues prompts whose completions no longer bring anything new."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from trainer.signal.kinds import Kind


@dataclass(frozen=True)
class Ladder:
    """The sampling temperature of every prompt: `base_temperature`, or some rungs above it.

    A rung multiplies by `factor`, and the top rung is exactly `max_temperature`. After a visit:

    | group                                   | next visit                                      |
    |-----------------------------------------|-------------------------------------------------|
    | teaches                                 | one rung down; base stays                       |
    | narrow (collapsed, or few wrong answers)| one rung up; the top rung stays                 |
    | learning, above base                    | one rung up; from the top back to base          |
    | any other                               | base                                            |

    So a rescue that brings a lesson is followed by another at the next lower rung, not by a fall back into the
    collapse; and one that brings none sweeps the rungs, because too hot finds nothing but noise.

    rungs: prompt id -> rung, for the prompts above base only.
    """

    base_temperature: float
    factor: float
    max_temperature: float
    rungs: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.factor <= 1 or not 0 < self.base_temperature <= self.max_temperature:
            raise ValueError(
                f"A temperature ladder needs factor > 1 and 0 < base <= maximum, got factor {self.factor}, "
                f"base {self.base_temperature}, maximum {self.max_temperature}."
            )

    @property
    def top(self) -> int:
        """The highest rung: the first that reaches `max_temperature`."""
        climb = math.log(self.max_temperature / self.base_temperature)
        return math.ceil(climb / math.log(self.factor) - 1e-9)

    def temperature(self, prompt_id: str) -> float:
        """What the prompt is sampled at on its next visit."""
        return min(self.base_temperature * self.factor ** self.rungs.get(prompt_id, 0), self.max_temperature)

    def after(self, prompt_id: str, kind: Kind, teaches: bool, narrow: bool) -> "Ladder":
        """The ladder after a visit to the prompt, by the table above."""
        rung = self.rungs.get(prompt_id, 0)
        if teaches:
            rung = max(rung - 1, 0)
        elif narrow:
            rung = min(rung + 1, self.top)
        elif kind == "learning" and 0 < rung < self.top:
            rung += 1
        else:
            rung = 0
        rungs = {key: value for key, value in self.rungs.items() if key != prompt_id}
        return replace(self, rungs=rungs | {prompt_id: rung} if rung else rungs)
