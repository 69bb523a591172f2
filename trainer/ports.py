"""What the loop talks to: Ray actors in a run, fakes in tests."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from generation.engine import SampleRequest
from generation.groups import Group
from trainer.evaluation import EvaluatedOn, Evaluation
from trainer.metrics import StepMetrics
from trainer.scored import ScoredGroup
from trainer.signal.treatment import Treated
from trainer.update.forest import Batch
from trainer.update.report import RankReport


class Interrupted(Exception):
    """A port was told to stop waiting, because the run is to end; nothing has changed."""


class Sampler(Protocol):
    """Engines, one call at a time."""

    def sample(self, requests: Sequence[SampleRequest]) -> tuple[Group, ...]:
        """The requests' groups, in order."""


Collect = Callable[[int], tuple[Group, ...]]
"""Waits for what engines have begun to sample; the requests' groups, in order. Asked with the policy version that the
ranks hold by then: what was lost with an engine is sampled again, by that version. It hears no interruption while it
waits for what was begun."""


class Generator(Sampler, Protocol):
    """Engines, which can sample while others work."""

    def begin(self, requests: Sequence[SampleRequest]) -> Collect:
        """Returns while they sample; until that is collected nothing else may be asked of them."""


class Scorer(Protocol):
    """The task's reward function."""

    def score(self, groups: Sequence[Group]) -> tuple[ScoredGroup, ...]:
        """A verdict for every distinct completion of every group."""


class Learner(Protocol):
    """The ranks."""

    def update(self, batch: Batch) -> RankReport:
        """One update; the report is of all ranks together."""


class WeightSync(Protocol):
    """From ranks to engines."""

    def sync(self, policy_version: int) -> None:
        """Returns when every engine holds the ranks' weights as `policy_version`, at once if all do; raises if one
        does not."""


class Logger(Protocol):
    """Where progress goes."""

    def phase(self, text: str) -> None:
        """What happens now."""

    def alarm(self, text: str) -> None:
        """Something is wrong, though the run goes on. Each kind once in a run."""

    def note(self, text: str) -> None:
        """Something to know."""

    def evaluation(self, on: EvaluatedOn, evaluation: Evaluation) -> None:
        """What the policy can do."""

    def step(self, step: StepMetrics, groups: Sequence[Treated]) -> None:
        """What a step did."""


@dataclass(frozen=True)
class Ports:
    """All that the loop talks to."""

    generator: Generator
    scorer: Scorer
    learner: Learner
    weight_sync: WeightSync
    logger: Logger
