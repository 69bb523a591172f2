"""What rewards refuses: a task that cannot be made, and a reward function that misbehaves."""


class TaskError(ValueError):
    """Bad data or an impossible task, found before anything starts: what, where, and what to do."""


class RewardError(RuntimeError):
    """A user's reward function that fails: its name, the input (shortened), and what to do.

    The run ends (of `RewardLost`, the second time): training on would mean training on a made-up reward.
    """


class RewardLost(RewardError):
    """Its process ended, or did not answer in time: another one may be asked."""
