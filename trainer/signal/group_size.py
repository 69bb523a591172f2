"""Group size: how many samples of a prompt are worth their cost.

Where answers repeat, a large group costs little more than a small one. Where every sample is another text, it costs
in proportion, and a prompt that is right every other time teaches as much with a quarter of the samples (knapsack RL,
arXiv 2509.25849, gives such prompts few samples for the same reason). So a prompt keeps its full group while its
completions repeat, or one of right and wrong is rare; else it gets as many samples as hold enough of both.
"""

from math import ceil

from configs.schema import Config
from trainer.scored import ScoredGroup
from trainer.signal.kinds import Kind

REPEATED = 4
"""Samples of a distinct completion, on average, from which on a group costs less than it tells."""


def hardly_repeats(config: Config, scored: ScoredGroup) -> bool:
    """Whether in a full group of the prompt a completion would come less than `REPEATED` times on average, and more
    distinct ones than an update computes: those seen, and of the further samples the share that was seen once
    (Good 1953)."""
    full, limit = config.sampling.num_generations, config.training.max_distinct_completions
    counts = scored.group.counts
    further = max(0, full - scored.group.num_generations)
    distinct = len(counts) + further * float((counts == 1).sum() / counts.sum())
    return limit is not None and distinct > max(limit, full / REPEATED)


def next_size(config: Config, scored: ScoredGroup, kind: Kind, best_reward: float) -> int:
    """Samples of the prompt's next group, from its latest: `sampling.num_generations`, or as many as are expected to
    hold half of `training.max_distinct_completions` each of right and of wrong ones."""
    full, limit = config.sampling.num_generations, config.training.max_distinct_completions
    group = scored.group
    samples = group.num_generations
    if limit is None or kind != "learning" or group.temperature != config.sampling.temperature:
        return full
    if not hardly_repeats(config, scored):
        return full
    right = int(group.counts @ scored.right(best_reward))
    rarer = min(right, samples - right)
    return min(full, max(limit, ceil(limit / 2 * samples / rarer))) if rarer else full
