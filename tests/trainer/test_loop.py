"""The loop against fakes: the order of events, what is skipped, and why a run ends."""

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from configs.loading import load
from configs.schema import Config
from tests.fakes import FakeGenerator, FakeJournal, FakeLearner, FakeModel, FakePublisher, FakeScorer, prompt
from trainer import loop
from trainer.metrics import Result
from trainer.ports import Ports

PROMPTS = [prompt(f"p{index}") for index in range(4)]


def config(tmp_path: Any, training: dict[str, Any] | None = None, **run: Any) -> Config:
    path = tmp_path / "recipe.yaml"
    path.write_text("task: {name: comparison}\nrun: {max_steps: 50}\n")
    sections = {"sampling": {"prompts_per_step": 2, "num_generations": 8, "max_completion_length": 2}}
    return load(path, {**sections, "training": training or {}, "run": run})


def run(
    settings: Config,
    model: FakeModel,
    *,
    interrupted: Callable[[], bool] = lambda: False,
    clock: Iterator[int] | None = None,
    logprob_gap: float = 0.001,
) -> tuple[Result, FakeJournal]:
    journal = FakeJournal()
    ticks = clock or count()
    learner = FakeLearner(model, logprob_gap)
    ports = Ports(FakeGenerator(model), FakeScorer(), learner, FakePublisher(model), journal)
    result = loop.train(
        settings,
        PROMPTS,
        1.0,
        ports,
        dtype="float32",
        interrupted=interrupted,
        clock=lambda: float(next(ticks)),
    )
    return result, journal


def test_a_step_samples_updates_and_publishes_before_the_next_sample(tmp_path: Any) -> None:
    model = FakeModel(skill=0.25, pace=0.1)
    run(config(tmp_path, max_steps=2), model)
    evaluation = ["sample 2 at version 0"] * 4  # half the prompts at a time, sampled and greedy
    assert model.events[:10] == [
        *evaluation,
        "sample 2 at version 0",
        "update on 16 samples",
        "publish 1",
        "sample 2 at version 1",
        "update on 16 samples",
        "publish 2",
    ]


def test_the_target_ends_the_run_and_the_evaluation_is_of_the_last_version(tmp_path: Any) -> None:
    result, journal = run(config(tmp_path, target_reward=0.995), FakeModel())
    assert result.reached is True
    assert "target" in result.stopped
    assert result.after.reward_sampled == 1.0
    assert result.after.accuracy_greedy == 1.0
    assert result.after.prompts_solved == 4
    assert result.after.policy_version == result.policy_version
    assert result.before.reward_sampled == pytest.approx(0.25 * 1.0 - 0.75 * 0.5)
    assert [step.step for step in journal.steps] == list(range(1, result.steps + 1))


def test_solved_groups_are_neither_trained_nor_published(tmp_path: Any) -> None:
    model = FakeModel(skill=1.0)
    result, journal = run(config(tmp_path, max_steps=3), model)
    assert not any(event.startswith(("update", "publish")) for event in model.events)
    assert result.policy_version == 0
    assert [step.groups_solved for step in journal.steps] == [2, 2, 2]
    assert all(step.loss == 0.0 and step.tree_tokens == 0 for step in journal.steps)


def test_collapsed_prompts_climb_the_ladder_and_come_back(tmp_path: Any) -> None:
    model = FakeModel(skill=0.0, pace=0.5)
    _, journal = run(config(tmp_path, max_steps=5), model)
    temperatures = [max(scored.group.temperature for scored, _ in groups) for groups in journal.groups]
    assert temperatures[0] == 1.0
    assert max(temperatures) == pytest.approx(1.4)
    assert journal.steps[0].groups_collapsed == 2
    assert journal.steps[0].groups_trained == 0
    assert model.trained_version > 0


def test_without_rescue_a_collapsed_run_never_updates(tmp_path: Any) -> None:
    settings = config(tmp_path, max_steps=5)
    settings = settings.model_copy(update={"signal": settings.signal.model_copy(update={"rescue": False})})
    model = FakeModel(skill=0.0)
    run(settings, model)
    assert model.trained_version == 0


def test_limits_end_the_run_unreached(tmp_path: Any) -> None:
    result, _ = run(config(tmp_path, max_steps=1, target_reward=0.995), FakeModel(pace=0.0))
    assert (result.reached, result.steps) == (False, 1)
    assert "run.max_steps" in result.stopped
    result, _ = run(config(tmp_path, max_steps=None, max_seconds=30, target_reward=0.995), FakeModel(pace=0.0))
    assert result.reached is False
    assert "run.max_seconds" in result.stopped


def test_without_a_target_nothing_is_missed(tmp_path: Any) -> None:
    result, _ = run(config(tmp_path, max_steps=2), FakeModel())
    assert result.reached is None


def test_an_interruption_ends_the_run_after_the_step_with_the_evaluation_at_hand(tmp_path: Any) -> None:
    model = FakeModel(pace=0.1)
    result, journal = run(config(tmp_path), model, interrupted=lambda: model.trained_version == 2)
    assert result.steps == len(journal.steps) == 2
    assert result.stopped == "Interrupted."
    assert result.after == result.before


def test_an_alarm_is_raised_once_with_the_step_it_began_at(tmp_path: Any) -> None:
    settings = config(tmp_path, max_steps=3)
    result, journal = run(settings, FakeModel(pace=0.1), logprob_gap=0.3)
    (text,) = journal.alarms
    assert "logprob_gap is 0.3" in text
    assert [(alarm.name, alarm.step, alarm.text) for alarm in result.alarms] == [("logprob_gap", 1, text)]

    result, journal = run(settings, FakeModel(pace=0.1))
    assert (journal.alarms, result.alarms) == ([], ())


def test_a_step_whose_completions_are_all_cut_off_has_no_update(tmp_path: Any) -> None:
    model = FakeModel(finish_reason="length")
    result, journal = run(config(tmp_path, {"mask_truncated_completions": True}, max_steps=3), model)
    assert not any(event.startswith(("update", "publish")) for event in model.events)
    assert result.policy_version == 0
    assert [(step.groups_learning, step.groups_trained) for step in journal.steps] == [(2, 0)] * 3
    run(config(tmp_path, max_steps=3), model)
    assert model.trained_version == 3


def test_overlong_completions_are_punished_before_they_are_judged(tmp_path: Any) -> None:
    """Answers have two tokens, of at most two: each is worth 1.0 less to a step, and no less to the target."""
    settings = config(tmp_path, {"soft_punish_cache": 2}, target_reward=0.995)
    result, journal = run(settings, FakeModel(skill=0.5))
    assert journal.steps[0].reward_mean == pytest.approx(0.5 * (1.0 - 1.0) + 0.5 * (-0.5 - 1.0))
    assert result.before.reward_sampled == pytest.approx(0.5 * 1.0 - 0.5 * 0.5)
    assert sum(step.groups_solved for step in journal.steps) == 0
    assert "target" in result.stopped


def test_metrics_count_samples_not_distinct_completions(tmp_path: Any) -> None:
    _, journal = run(config(tmp_path, max_steps=1), FakeModel(skill=0.25))
    step = journal.steps[0]
    assert (step.completions, step.distinct_completions) == (16, 4)
    assert step.correct == 0.25
    assert step.reward_mean == pytest.approx(0.25 - 0.75 * 0.5)
    assert step.reward_std == pytest.approx(1.5 * (0.25 * 0.75) ** 0.5)
    assert step.dense_tokens == 16 * 5
    assert step.groups_learning == step.groups_trained == 2
