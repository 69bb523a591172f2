"""How far an update goes: less far, the more of a step's groups are solved, and the steeper the gradient is.

Solved groups teach nothing, so the update is a mean over fewer groups, and noisier. AdamW divides a gradient by its
usual size and goes as far as ever: late in a run one prompt that is nearly learnt moved the policy as far as sixteen
had before, and undid what others had learnt. With adaptive optimizers the learning rate goes with the root of the
batch (Malladi et al. 2022, "On the SDEs and scaling rules for adaptive gradient algorithms", arXiv 2205.10287).

Nor does AdamW, of limited gradients, go less far where log-probabilities change faster with the weights: with a
gradient ten times as long as at first, an update of the same length moves them ten times as far, and nothing limits
that, since the ratio of an on-policy update is 1 everywhere. Beyond `STEEP` times the first norms the learning rate
goes with one over the norm, so that the change to first order stays what it was (the limit of Schulman et al. 2015,
"Trust region policy optimization", arXiv 1502.05477, without its second-order part).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt
from statistics import median

from trainer.signal.treatment import Treated

STEEP = 8.0
"""Times the norm that the gradients of the first updates had. Measured: docs/results.md, "How far an update goes"."""


@dataclass(frozen=True)
class StepSize:
    """Share of the learning rate that an update takes.

    steep: a gradient longer than this takes less, in proportion. recent: the length of those before it. A gradient is
        short where little is left to learn, too, though the policy is as steep as before: the longer one counts.
    """

    share: float = 1.0
    steep: float = inf
    recent: float = 0.0

    def of(self, norm: float) -> float:
        """With a gradient of this length."""
        longest = max(norm, self.recent)
        return self.share * (self.steep / longest if longest > self.steep else 1.0)


WHOLE = StepSize()


def step_size(
    treated: Sequence[Treated], first_norms: Sequence[float], last_norms: Sequence[float], max_grad_norm: float
) -> StepSize:
    """Of an update on these groups: the root of the share that is not solved.

    Groups that teach nothing for want of a right answer do not count as solved: where most are such, a run is at its
    beginning, and must go on.

    first_norms, last_norms: of the gradients of the first and the last few updates. max_grad_norm: first norms below
        it count as it, as where hardly a sample was right yet.
    """
    usual = max(median(first_norms), max_grad_norm) if first_norms else inf
    unsolved = sum(one.kind != "solved" for one in treated)
    return StepSize(
        share=sqrt(max(unsolved, 1) / len(treated)),
        steep=STEEP * usual,
        recent=median(last_norms) if last_norms else 0.0,
    )
