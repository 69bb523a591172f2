"""The temperature ladder: rescues prompts whose completions bring nothing new any more."""

import math
from dataclasses import dataclass

from configs.schema import Config
from trainer.signal.kinds import Kind


@dataclass(frozen=True)
class Ladder:
    """The sampling temperatures that a prompt can have: `base_temperature` (rung 0), and rungs above it.

    A rung multiplies by `factor`, and the top rung is exactly `max_temperature`. After a rollout:

    | group                                   | next rollout                                    |
    |-----------------------------------------|-------------------------------------------------|
    | teaches                                 | one rung down; base stays                       |
    | narrow (collapsed, or few wrong answers)| one rung up; the top rung stays                 |
    | learning, above base                    | one rung up; from the top back to base          |
    | any other                               | base                                            |

    So a rescue that brings a lesson is followed by another at the next lower rung, not by a fall back into the
    collapse; and one that brings none sweeps the rungs, because too hot finds nothing but noise.
    """

    base_temperature: float
    factor: float
    max_temperature: float

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

    def temperature(self, rung: int) -> float:
        """What a prompt on that rung is sampled at."""
        return min(self.base_temperature * self.factor**rung, self.max_temperature)

    def after(self, rung: int, kind: Kind, teaches: bool, narrow: bool) -> int:
        """The rung after a rollout, by the table above."""
        if teaches:
            return max(rung - 1, 0)
        if narrow:
            return min(rung + 1, self.top)
        return rung + 1 if kind == "learning" and 0 < rung < self.top else 0


def ladder(config: Config) -> Ladder:
    """As configured; without rescues it has no rung above base."""
    base, signal = config.sampling.temperature, config.signal
    return Ladder(base, signal.rescue_factor, signal.rescue_max_temperature if signal.rescue else base)
