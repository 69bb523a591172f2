from dataclasses import replace
from math import isnan, nan

import numpy as np
import pytest

from configs.schema import Config
from generation.groups import Completion, Group
from rewards.prompts import EXAMPLE_PROMPT, Outcome, Verdict
from trainer.happened import EXAMPLE_TIMES, Happened
from trainer.metrics import measure, of_functions, of_groups
from trainer.scored import ScoredGroup
from trainer.signal.rollout import Rollout
from trainer.signal.treatment import Treated
from trainer.update.report import NO_UPDATE, RankReport, together


def scored(*samples: tuple[str, int, Outcome]) -> ScoredGroup:
    """samples: (text, count, outcome); a right one earns 1, others nothing."""
    completions = tuple(
        Completion(np.array([token], np.int32), text, np.array([-1.0], np.float32), "stop", count)
        for token, (text, count, _) in enumerate(samples)
    )
    verdicts = tuple(Verdict(float(outcome == "correct"), outcome) for *_, outcome in samples)
    return ScoredGroup(Group(EXAMPLE_PROMPT, completions, 1.0, 0), verdicts)


RIGHT = scored(("5", 4, "correct"))
RESCUED = scored(("6", 8, "wrong"), ("7", 6, "wrong"), ("?", 2, "malformed"))
"""Four times as many samples as `RIGHT` has."""


CONFIG = Config.model_validate(
    {"task": {"name": "comparison"}, "run": {"max_steps": 1}, "sampling": {"num_generations": 4}}
)


def happened(report: RankReport | None = None) -> Happened:
    treated = (
        Treated(Rollout(0, 1.0, 0, 8), RIGHT, "solved", "skip", None, False, False, False, 8),
        Treated(Rollout(1, 1.0, 3, 8), RESCUED, "learning", "skip", None, True, False, True, 8),
    )
    return Happened(7, 6, (RIGHT, RESCUED), treated, (0.5, None), 0, 0, report, EXAMPLE_TIMES)


def test_a_group_that_was_sampled_more_often_weighs_no_more() -> None:
    step = measure(CONFIG, happened(), prompts_solved=1)
    assert (step.reward_mean, step.reward_std) == pytest.approx((0.5, 0.5))
    assert (step.correct, step.malformed, step.truncated) == pytest.approx((0.5, 1 / 16, 0.0))
    assert (step.completions, step.distinct_completions) == (20, 4)


def test_lengths_and_entropy_are_means_over_samples() -> None:
    def group(*samples: tuple[int, int, float, Outcome]) -> ScoredGroup:
        """samples: (tokens, count, log-probability of each token, outcome)"""
        completions = tuple(
            Completion(np.arange(tokens, dtype=np.int32), str(n), np.full(tokens, logprob, np.float32), "stop", count)
            for n, (tokens, count, logprob, _) in enumerate(samples)
        )
        return ScoredGroup(
            Group(EXAMPLE_PROMPT, completions, 1.0, 0), tuple(Verdict(0.0, outcome) for *_, outcome in samples)
        )

    treated = [
        Treated(Rollout(0, 1.0, 0, 8), one, "floor", "skip", None, False, False, True, 8)
        for one in (group((2, 3, -0.5, "correct"), (6, 1, -2.0, "wrong")), group((4, 4, -1.0, "wrong")))
    ]
    what = replace(happened(), treated=tuple(treated), scored=tuple(one.scored for one in treated))
    step = measure(CONFIG, what, prompts_solved=0)
    assert step.completion_length == pytest.approx((3 * 2 + 6 + 4 * 4) / 8) and step.completion_length_max == 6
    assert step.completion_length_correct == 2 and step.completion_length_wrong == pytest.approx((6 + 4 * 4) / 5)
    assert step.entropy == pytest.approx((3 * 2 * 0.5 + 6 * 2.0 + 4 * 4 * 1.0) / 28)
    none_right = replace(what, treated=(treated[1],))
    assert isnan(measure(CONFIG, none_right, prompts_solved=0).completion_length_correct)


def test_each_reward_function_and_what_it_logs_has_a_mean() -> None:
    def judged(parts: list[tuple[float, ...]], logged: dict[str, float]) -> ScoredGroup:
        verdicts = tuple(Verdict(sum(part), "wrong", part, logged) for part in parts)
        return ScoredGroup(RESCUED.group, verdicts)

    one = judged([(1.0, nan), (0.0, -2.0), (0.0, nan)], {"near": 0.5})
    other = judged([(0.0, nan), (0.0, nan), (0.0, nan)], {"near": 1.0, "far": 3.0})
    assert of_functions([one, other], ["right", "brief"]) == {
        "rewards/right": 0.25,
        "rewards/brief": -2.0,
        "logged/near": 0.75,
        "logged/far": 3.0,
    }
    assert of_functions([RIGHT], []) == {}
    step = replace(measure(CONFIG, happened(), prompts_solved=0), of_functions={"rewards/right": 0.5})
    assert step.named["rewards/right"] == 0.5 and "of_functions" not in step.named


def test_shares_are_means_over_groups() -> None:
    shares = of_groups([RIGHT, RESCUED])
    assert (shares.distinct, shares.wrong) == pytest.approx(((1 / 4 + 3 / 16) / 2, 7 / 16))


def test_a_step_counts_its_groups_and_seconds() -> None:
    step = measure(CONFIG, happened(), prompts_solved=3)
    assert (step.step, step.prompts_solved, step.groups_solved, step.groups_learning) == (7, 3, 1, 1)
    assert (step.groups_trained, step.groups_rescued, step.policy_shift) == (0, 1, 0.5)
    seconds = step.seconds_sample, step.seconds_score, step.seconds_update, step.seconds_publish
    assert sum(seconds) == pytest.approx(step.seconds_step) == pytest.approx(10.6)
    assert step.seconds_total == 20.6


def test_what_ranks_report_is_in_the_metrics_and_zero_without_an_update() -> None:
    report = replace(NO_UPDATE, loss=0.5, kl=0.1, logprob_gap=0.3, grad_norm=2.0)
    step = measure(CONFIG, happened(report), prompts_solved=1)
    assert (step.loss, step.kl, step.logprob_gap, step.grad_norm) == (0.5, 0.1, 0.3, 2.0)
    idle = measure(CONFIG, happened(), prompts_solved=1)
    assert (idle.loss, idle.grad_norm, idle.learning_rate) == (0.0, 0.0, 0.0)


def test_parts_of_a_report_add_up_over_ranks() -> None:
    one = replace(NO_UPDATE, loss=0.5, kl=0.1, clip_fraction=0.25, grad_norm=2.0, learning_rate=1e-5)
    whole = together([one, replace(one, loss=0.25, kl=0.0, clip_fraction=0.5)])
    assert whole == replace(one, loss=0.75, kl=0.1, clip_fraction=0.75)
    assert together([NO_UPDATE]) == NO_UPDATE
