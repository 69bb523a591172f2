"""Evidence: what a run that cannot learn is convicted by, in numbers. One record for every cause."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TemperatureTrap:
    """Groups of `prompts` of `unsolved` prompts are of one text, which the model itself gives at most `own_share` of
    the time."""

    silent_steps: int
    prompts: int
    unsolved: int
    own_share: float


@dataclass(frozen=True)
class FormatNeverMet:
    """malformed, truncated: shares of the `samples`. text: a frequent one, if one is known."""

    silent_steps: int
    samples: int
    malformed: float
    truncated: float
    text: str | None


@dataclass(frozen=True)
class Truncated:
    """share: of the `samples`, that were cut off."""

    silent_steps: int
    samples: int
    share: float


@dataclass(frozen=True)
class OutOfReach:
    """correct: of the `samples` of `prompts` unsolved prompts. plateau: the reward that has stood still, or None
    where no group learned for `silent_steps`."""

    silent_steps: int
    plateau: float | None
    correct: int
    samples: int
    prompts: int


@dataclass(frozen=True)
class Collapsed:
    """Groups of `prompts` of `unsolved` prompts are of one text, such as `text`. best: of their rewards. hottest:
    temperature that was tried."""

    silent_steps: int
    prompts: int
    unsolved: int
    text: str | None
    best: float
    hottest: float


@dataclass(frozen=True)
class ConstantReward:
    """All `samples`, so many different `answers` among them, earned `reward`. tried: the data's own columns earned no
    more as answers; False where there are none to try."""

    silent_steps: int
    samples: int
    answers: int
    reward: float
    tried: bool


@dataclass(frozen=True)
class UnverifiableReward:
    """Different answers earn `best_reward` as answers to any prompt. at_start: nothing was left to learn before the
    first update."""

    silent_steps: int
    at_start: bool
    best_reward: float


@dataclass(frozen=True)
class LearningRateTooLow:
    """drift: of any group at most, after `updates`. reward: mean, as last sampled."""

    updates: int
    drift: float
    reward: float


@dataclass(frozen=True)
class GradientExploded:
    """Gradient norms of the first and of the last updates."""

    before: float
    after: float


@dataclass(frozen=True)
class KLExploded:
    """Nats per token from the untrained model."""

    kl: float


@dataclass(frozen=True)
class DriftExploded:
    """Nats per completion since the prompts' first rollouts."""

    drift: float


@dataclass(frozen=True)
class CompletionsSpoilt:
    """Shares that are cut off or malformed, in the first and in the last steps."""

    before: float
    after: float


@dataclass(frozen=True)
class NothingLearns:
    """No group has learned since."""


Breakage = GradientExploded | KLExploded | DriftExploded | CompletionsSpoilt | NothingLearns


@dataclass(frozen=True)
class LearningRateTooHigh:
    """The reward fell from `peak` to `now` in so many `updates`, which broke something else too."""

    peak: float
    now: float
    updates: int
    breakage: Breakage


@dataclass(frozen=True)
class DataTooLarge:
    """The limits allow `steps`, and the target is measured on `prompts`. pace: seconds a step where it is
    run.max_seconds that limits, None where it is run.max_steps."""

    steps: int
    prompts: int
    pace: float | None


Evidence = (
    TemperatureTrap
    | FormatNeverMet
    | Truncated
    | OutOfReach
    | Collapsed
    | ConstantReward
    | UnverifiableReward
    | LearningRateTooLow
    | LearningRateTooHigh
    | DataTooLarge
)

EXAMPLE_EVIDENCE = Truncated(silent_steps=3, samples=2048, share=0.97)
