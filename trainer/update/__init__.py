"""From lessons to new weights: token trees, the objective, a DeepSpeed rank, and weight sync."""
