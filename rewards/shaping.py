"""What an answer is worth."""

from configs.schema import Shaping
from rewards.prompts import Verdict


def verdict(closeness: float | None, truncated: bool, shaping: Shaping) -> Verdict:
    """A right answer is 1.0. With shaping `none` all else is -1.0; with `partial` a wrong answer is -0.5 plus half
    its closeness, so from -0.5 to below 0.

    closeness: 1.0 right, from 0 to below 1 wrong, None no answer at all. truncated: cut off by max_completion_length,
    and no answer for that.
    """
    if truncated:
        return Verdict(-1.0, "truncated")
    if closeness is None:
        return Verdict(-1.0, "malformed")
    if closeness >= 1.0:
        return Verdict(1.0, "correct")
    return Verdict(-1.0 if shaping == "none" else -0.5 + 0.5 * closeness, "wrong")
