"""What ranks report of an update, declared as metrics."""

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.metric import Panel, declared, metric


@dataclass(frozen=True)
class RankReport:
    """A rank's part of an update, or all of it (`together`). With several iterations all are their means."""

    loss: float = metric(
        "Policy and update",
        "what the update minimised",
        healthy="near 0 whatever the reward is, with the default settings: advantages add up to 0 in every "
        "group, and the first update on a batch has ratios of 1. Measured: below 1e-5 in size. Do not "
        "judge a run by it",
        otherwise="`nan` or infinite ends the run",
        reduction="sum",
    )
    kl: float = metric(
        "Policy and update",
        "mean KL divergence from the untrained model, in nats per token; 0 without a reference (`training.beta` 0)",
        healthy="depends on the task; grows slowly. Above 1 with a falling reward is `learning_rate_too_high`",
        otherwise="grows fast: raise `training.beta` or lower `training.learning_rate`",
        reduction="sum",
        panel=Panel("Policy", "KL to the reference (0 where training.beta is 0)", ".3g", first=True),
    )
    clip_fraction: float = metric(
        "Policy and update",
        "share of tokens whose gradient the clipping stopped (`cispo`: shortened)",
        healthy="exactly 0 with `training.num_iterations` 1, where ratios are 1",
        otherwise="high with more iterations: fewer iterations, a lower `training.learning_rate`, or wider "
        "`training.epsilon`",
        reduction="sum",
        panel=Panel("Gradient", "clip fraction of the probability ratios", ".2%"),
    )
    logprob_gap: float = metric(
        "Policy and update",
        "train-inference mismatch: mean difference between trainer's and engine's log-probability of a sampled "
        "token, in nats",
        healthy="float32 below 1e-3, bfloat16 below 0.15 (0.3 with LoRA or quantised engines); above raises an "
        "alarm. Measured: 1e-6 to 1.3e-5 in float32; in bfloat16 0.01 on the recipe, 0.04 to 0.05 in free text, 0.06 "
        "where few tokens were trained on, up to 0.2 with LoRA. "
        "With `policy_lag` 1 the update in between is part of it, and there is no alarm",
        otherwise="the alarm says what to do: the engines' weights are stale, or the two compute differently",
        reduction="sum",
        panel=Panel("Policy", "train-inference mismatch of log-probabilities", ".3g"),
    )
    grad_norm: float = metric(
        "Policy and update",
        "length of the whole batch's gradient before it is limited to `training.max_grad_norm`",
        healthy="depends on model and task. Measured: A 1.8 to 14, B 5 to 51, limited to 1.0 throughout. Ten "
        "times that of the first updates, with a falling reward, is `learning_rate_too_high`",
        otherwise="lower `training.learning_rate`. Not finite: the run ends",
        reduction="same",
        panel=Panel("Gradient", "gradient norm", ".3g", log=True, first=True),
    )
    learning_rate: float = metric(
        "Policy and update",
        "that the update was made with",
        healthy="the course that `training.lr_scheduler_type` and `warmup_steps` ask for, times the root of the "
        "share of groups that are not solved; less, where the gradient is over eight times as long as at first",
        reduction="same",
        panel=Panel("Gradient", "learning rate", ".3g"),
    )


SUMMED = tuple(name for name, each in declared(RankReport) if each.reduction == "sum")
"""What adds up over micro-batches and ranks: the fields of `trainer.update.objective.Objective`."""

NO_UPDATE = RankReport(**dict.fromkeys((name for name, _ in declared(RankReport)), 0.0))
"""Of a step without one."""


def together(reports: Sequence[RankReport]) -> RankReport:
    """One report of all ranks' parts."""
    sums = {name: sum(getattr(report, name) for report in reports) for name in SUMMED}
    return RankReport(**{name: sums.get(name, getattr(reports[0], name)) for name, _ in declared(RankReport)})
