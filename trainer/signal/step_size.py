"""How far an update goes: less far, the more of a step's groups are solved.

Solved groups teach nothing, so the update is a mean over fewer groups, and noisier. AdamW divides a gradient by its
usual size and goes as far as ever: late in a run one prompt that is nearly learnt moved the policy as far as sixteen
had before, and undid what others had learnt. With adaptive optimizers the learning rate goes with the root of the
batch (Malladi et al. 2022, "On the SDEs and scaling rules for adaptive gradient algorithms", arXiv 2205.10287).
"""

from collections.abc import Sequence
from math import sqrt

from trainer.signal.treatment import Treated


def step_size(treated: Sequence[Treated]) -> float:
    """Share of the learning rate that an update on these groups takes: the root of the share that is not solved.

    Groups that teach nothing for want of a right answer do not count as solved: where most are such, a run is at its
    beginning, and must go on.
    """
    unsolved = sum(one.kind != "solved" for one in treated)
    return sqrt(max(unsolved, 1) / len(treated))
