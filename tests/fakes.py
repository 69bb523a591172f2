"""Hand-written stand-ins for the loop's ports: a policy that is a number, and no Ray, vLLM or DeepSpeed."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from generation.engine import SampleRequest
from generation.groups import Completion, FinishReason, Group
from rewards.prompts import Prompt, Verdict
from trainer.evaluation import EvaluatedOn, Evaluation
from trainer.metrics import StepMetrics
from trainer.ports import Collect
from trainer.scored import ScoredGroup
from trainer.signal.treatment import Treated
from trainer.update.forest import Batch
from trainer.update.report import NO_UPDATE, RankReport


@dataclass
class FakeModel:
    """Answers "right" with probability `skill`, which an update raises by `pace`."""

    skill: float = 0.25
    pace: float = 0.25
    trained_version: int = 0
    synced_version: int = 0
    finish_reason: FinishReason = "stop"
    events: list[str] = field(default_factory=list)


class SamplesAtOnce:
    """What begins to sample has sampled."""

    def sample(self, requests: Sequence[SampleRequest]) -> tuple[Group, ...]:
        raise NotImplementedError

    def begin(self, requests: Sequence[SampleRequest]) -> Collect:
        groups = self.sample(requests)
        return lambda _: groups


@dataclass(frozen=True)
class FakeGenerator:
    """Splits every group by the synced skill, without chance; hot groups always hold a right answer."""

    model: FakeModel

    def sample(self, requests: Sequence[SampleRequest]) -> tuple[Group, ...]:
        self.model.events.append(f"sample {len(requests)} at version {self.model.synced_version}")
        return tuple(self._group(request) for request in requests)

    def begin(self, requests: Sequence[SampleRequest]) -> Collect:
        self.model.events.append(f"begin {len(requests)} at version {self.model.synced_version}")
        groups = tuple(self._group(request) for request in requests)

        def collect(policy_version: int) -> tuple[Group, ...]:
            assert policy_version == self.model.trained_version
            self.model.events.append("collect")
            return groups

        return collect

    def _group(self, request: SampleRequest) -> Group:
        n = request.num_generations
        right = round(n * self.model.skill) if request.temperature else n * (self.model.skill >= 0.5)
        if request.temperature > 1.0:
            right = max(1, right)
        counts = {"right": int(right), "wrong": n - int(right)}
        completions = tuple(
            completion(text, count, self.model.finish_reason) for text, count in counts.items() if count
        )
        return Group(request.prompt, completions, request.temperature, self.model.synced_version)


class FakeScorer:
    """Right is 1.0, wrong −0.5."""

    def score(self, groups: Sequence[Group]) -> tuple[ScoredGroup, ...]:
        return tuple(
            ScoredGroup(
                group,
                tuple(
                    Verdict(1.0, "correct") if c.text == "right" else Verdict(-0.5, "wrong")
                    for c in group.completions
                ),
            )
            for group in groups
        )


@dataclass(frozen=True)
class FakeLearner:
    """Raises the skill; the engines do not know before the weights are synced."""

    model: FakeModel
    logprob_gap: float = 0.001

    def update(self, batch: Batch) -> RankReport:
        self.model.events.append(f"update on {batch.num_samples} samples")
        self.model.trained_version += 1
        return replace(NO_UPDATE, loss=0.5, logprob_gap=self.logprob_gap, grad_norm=2.0, learning_rate=1e-5)


@dataclass(frozen=True)
class FakeWeightSync:
    """Hands the skill over."""

    model: FakeModel

    def sync(self, policy_version: int) -> None:
        if policy_version == self.model.synced_version:
            return
        self.model.events.append(f"sync {policy_version}")
        assert policy_version == self.model.trained_version
        self.model.synced_version = policy_version
        self.model.skill = min(1.0, self.model.skill + self.model.pace)


@dataclass
class FakeLogger:
    """Keeps everything."""

    phases: list[str] = field(default_factory=list)
    steps: list[StepMetrics] = field(default_factory=list)
    groups: list[Sequence[Treated]] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    evaluations: list[tuple[EvaluatedOn, Evaluation]] = field(default_factory=list)

    def phase(self, text: str) -> None:
        self.phases.append(text)

    def alarm(self, text: str) -> None:
        self.alarms.append(text)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def evaluation(self, on: EvaluatedOn, evaluation: Evaluation) -> None:
        self.evaluations.append((on, evaluation))

    def step(self, step: StepMetrics, groups: Sequence[Treated]) -> None:
        self.steps.append(step)
        self.groups.append(groups)


def completion(text: str, count: int, finish_reason: FinishReason = "stop") -> Completion:
    """`text` as a completion of two tokens."""
    token_ids = np.array([len(text), 2], dtype=np.int32)
    return Completion(token_ids, text, np.array([-0.5, -0.1], dtype=np.float32), finish_reason, count)


def prompt(name: str) -> Prompt:
    """A prompt of three tokens."""
    return Prompt(name, ({"role": "user", "content": f"{name}?"},), {}, (1, 5, 9), None)
