"""Scored groups in a line: `scored(("Yes", 96, 1.0), ("No", 32, -0.5))`."""

import numpy as np

from generation.groups import Completion, Group
from rewards.prompts import EXAMPLE_PROMPT, Outcome, Verdict
from trainer.scored import ScoredGroup


def scored(*samples: tuple[str, int, float], temperature: float = 1.0, best: float = 1.0) -> ScoredGroup:
    """A group of the example prompt. samples: (text, count, reward); every completion has other tokens, two of them.
    A reward of -1 is that of no answer."""
    completions = tuple(
        Completion(np.array([token, 2], np.int32), text, np.array([-1.0, -0.5], np.float32), "stop", count)
        for token, (text, count, _) in enumerate(samples)
    )
    return ScoredGroup(
        Group(EXAMPLE_PROMPT, completions, temperature, 0),
        tuple(Verdict(reward, _outcome(reward, best)) for *_, reward in samples),
    )


def _outcome(reward: float, best: float) -> Outcome:
    return "correct" if reward >= best else "malformed" if reward == -1.0 else "wrong"
