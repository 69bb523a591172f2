"""What is done to a run, and what it may do then."""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

T = TypeVar("T")

STARTS = ("starting the ranks", "starting the engines")
PHASES = (*STARTS, "sampling", "scoring", "updating", "syncing", "saving", "logging")

LONGEST_DELAY = 0.3
"""Seconds from the beginning of the phase, at most: about a step of the tiny model."""

REPLACED = ("engine", "rank", "reward worker")
"""Processes that a run goes on without."""

GOES_ON = None
"""Among exit statuses: it has none, since the command does not end."""


@dataclass(frozen=True)
class Kind:
    """deed: a signal, or what else happens. target: which of the run's processes; empty if the deed says all.
    ends: exit statuses that the command may end with because of it; it has to be started again then."""

    deed: str
    target: str
    ends: tuple[int | None, ...]

    @property
    def name(self) -> str:
        return f"{self.deed}, {self.target}" if self.target else self.deed


KINDS = (
    *(Kind(deed, target, (GOES_ON,)) for target in REPLACED for deed in ("SIGKILL", "SIGSTOP", "SIGTERM")),
    *(Kind(deed, target, (5,)) for target in ("raylet", "gcs_server") for deed in ("SIGKILL", "SIGSTOP")),
    *(Kind("SIGTERM", target, (GOES_ON,)) for target in ("raylet", "gcs_server")),
    Kind("SIGKILL", "driver", (-9,)),
    Kind("SIGSTOP for 12 s", "driver", (GOES_ON,)),
    Kind("SIGTERM", "driver", (5,)),
    *(Kind(deed, "process group", (5,)) for deed in ("SIGTERM", "SIGHUP", "SIGUSR1")),
    Kind("SIGKILL", "process group", (-9,)),
    Kind("full disk for 5 s", "", (GOES_ON,)),
    Kind("frozen reward function", "", (GOES_ON,)),
    Kind("reward function that raises", "", (1,)),
    Kind("failing tracker", "", (GOES_ON,)),
    Kind("damaged checkpoint, then SIGKILL", "driver", (-9,)),
)


@dataclass(frozen=True)
class Fault:
    """phase: of the run, in which it comes. delay: seconds after the beginning of the phase. draw: from 0 to 1,
    decides which of several processes or files it is."""

    number: int
    kind: Kind
    phase: str
    delay: float
    draw: float

    def __str__(self) -> str:
        return f"{self.kind.name}, {self.delay:.2f} s into {self.phase}"

    @property
    def json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of_json(cls, text: str) -> "Fault":
        values = json.loads(text)
        kind = values.pop("kind")
        return cls(kind=Kind(kind["deed"], kind["target"], tuple(kind["ends"])), **values)


EXAMPLE_FAULT = Fault(number=7, kind=KINDS[0], phase="syncing", delay=0.12, draw=0.7)


def draw(number: int, seed: int) -> tuple[Fault, ...]:
    """So many faults, at random: every kind before one comes again, and every phase too."""
    chance = random.Random(seed)
    kinds, phases = _in_turns(KINDS, chance), _in_turns(PHASES, chance)
    return tuple(
        Fault(index, next(kinds), next(phases), chance.uniform(0, LONGEST_DELAY), chance.random())
        for index in range(number)
    )


def _in_turns(values: Sequence[T], chance: random.Random) -> Iterator[T]:
    while True:
        yield from chance.sample(values, len(values))
