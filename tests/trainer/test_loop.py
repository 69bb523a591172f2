"""The loop against fakes: the order of events, what is skipped, and why a run ends."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np
import pytest

from configs.derived import derived
from configs.loading import load
from configs.schema import Config, EngineSettings
from generation.engine import SampleRequest
from generation.groups import Group
from rewards.prompts import Prompt, Verdict
from tests.fakes import (
    FakeGenerator,
    FakeLearner,
    FakeLogger,
    FakeModel,
    FakeScorer,
    FakeWeightSync,
    SamplesAtOnce,
    completion,
    prompt,
)
from trainer import loop
from trainer.diagnosis import trial
from trainer.ending import Result, Stop, Target
from trainer.metrics import StepMetrics
from trainer.ports import Collect, Generator, Interrupted, Learner, Ports, Scorer
from trainer.run import Run
from trainer.scored import ScoredGroup
from trainer.signal.rollout import Rollout
from trainer.state import RunState
from trainer.update.forest import Batch
from trainer.update.report import RankReport

PROMPTS = [prompt(f"p{index}") for index in range(4)]


def without_seconds(step: StepMetrics) -> StepMetrics:
    zeros: dict[str, Any] = {name: 0.0 for name in step.named if name.startswith("seconds")}
    return replace(step, **zeros)


def config(tmp_path: Any, training: dict[str, Any] | None = None, **run: Any) -> Config:
    path = tmp_path / "recipe.yaml"
    path.write_text("task: {name: comparison}\nrun: {max_steps: 50}\n")
    sections = {"sampling": {"prompts_per_step": 2, "num_generations": 8, "max_completion_length": 2}}
    return derived(load(path, {**sections, "training": training or {}, "run": run}), gpus=0)


def ahead(settings: Config) -> Config:
    """With engines that sample one step ahead."""
    return settings.model_copy(update={"sampling": settings.sampling.model_copy(update={"ahead": 1})})


def with_signal(settings: Config, **signal: Any) -> Config:
    return settings.model_copy(update={"signal": settings.signal.model_copy(update=signal)})


def run(
    settings: Config,
    model: FakeModel,
    *,
    interrupted: Callable[[], bool] = lambda: False,
    clock: Iterator[int] | None = None,
    logprob_gap: float = 0.001,
    generator: Generator | None = None,
    scorer: Scorer | None = None,
    learner: Learner | None = None,
    prompts: Sequence[Prompt] = PROMPTS,
    held_out: Sequence[Prompt] = (),
) -> tuple[Result, FakeLogger]:
    logger = FakeLogger()
    ticks = clock or count()
    ports = Ports(
        generator or FakeGenerator(model),
        scorer or FakeScorer(),
        learner or FakeLearner(model, logprob_gap),
        FakeWeightSync(model),
        logger,
    )
    result = loop.train(
        Run(settings, tuple(prompts), best_reward=1.0, dtype="float32", held_out=tuple(held_out)),
        ports,
        interrupted=interrupted,
        clock=lambda: float(next(ticks)),
    )
    return result, logger


def test_a_step_samples_updates_and_syncs_before_the_next_sample(tmp_path: Any) -> None:
    model = FakeModel(skill=0.25, pace=0.1)
    run(config(tmp_path, max_steps=2), model)
    evaluation = ["sample 4 at version 0"] * 2  # all prompts at once, sampled and greedy
    assert model.events[:8] == [
        *evaluation,
        "sample 2 at version 0",
        "update on 16 samples",
        "sync 1",
        "sample 2 at version 1",
        "update on 16 samples",
        "sync 2",
    ]


def test_one_step_ahead_the_next_groups_are_sampled_during_the_update(tmp_path: Any) -> None:
    model = FakeModel(skill=0.25, pace=0.1)
    result, logger = run(ahead(config(tmp_path, max_steps=3)), model)
    evaluation = ["sample 4 at version 0"] * 2
    begun = [
        *["sample 2 at version 0", "begin 2 at version 0", "update on 16 samples", "collect"],
        *["sync 1", "begin 2 at version 1", "update on 16 samples", "collect"],
        *["sync 2", "begin 2 at version 2", "update on 16 samples", "collect"],
    ]
    after = ["sync 3", *["sample 4 at version 3"] * 2]  # nothing is left behind that could disturb it
    assert model.events == [*evaluation, *begun, *after]
    assert [(step.policy_version, step.policy_lag) for step in logger.steps] == [(0, 0), (0, 1), (1, 1)]
    assert result.policy_version == result.after.policy_version == 3


@pytest.mark.parametrize("signal", [{}, {"stop_without_signal": False}])
def test_one_step_ahead_the_same_is_decided_on_the_same_groups(tmp_path: Any, signal: dict[str, Any]) -> None:
    """Where it does not matter which version samples: prompts, temperatures, sizes, and what ends the run."""

    def trained(settings: Config) -> tuple[Result, list[StepMetrics], list[Rollout]]:
        result, logger = run(settings, FakeModel(), generator=NeverRight(crumbs=1))
        steps = [replace(without_seconds(step), policy_lag=0) for step in logger.steps]
        return replace(result, seconds=0.0), steps, [one.rollout for groups in logger.groups for one in groups]

    settings = with_signal(config(tmp_path, max_steps=30), **signal)
    result, steps, rollouts = trained(settings)
    assert trained(ahead(settings)) == (result, steps, rollouts)
    assert len({rollout.temperature for rollout in rollouts}) > 3  # the ladder
    assert {step.completions for step in steps} == {16, 64}  # more samples


def test_one_step_ahead_a_step_without_an_update_is_followed_by_one_without_lag(tmp_path: Any) -> None:
    model = FakeModel(skill=0.25, pace=0.75)
    _, logger = run(ahead(config(tmp_path, max_steps=4)), model)
    # The third step is the first that the new policy sampled, and all of it is solved.
    assert [step.groups_trained for step in logger.steps] == [2, 2, 0, 0]
    assert [step.policy_lag for step in logger.steps] == [0, 1, 1, 0]


def test_one_step_ahead_the_target_ends_the_run(tmp_path: Any) -> None:
    model = FakeModel()
    result, _ = run(ahead(config(tmp_path, target_reward=0.995)), model)
    assert (result.target, result.stop) == (Target.REACHED, Stop.TARGET)
    assert result.after.policy_version == result.policy_version
    assert model.events.count("collect") == sum(event.startswith("begin") for event in model.events) == result.steps


def test_the_target_ends_the_run_and_the_evaluation_is_of_the_last_version(tmp_path: Any) -> None:
    result, logger = run(config(tmp_path, target_reward=0.995), FakeModel())
    assert (result.target, result.stop) == (Target.REACHED, Stop.TARGET)
    assert "target" in result.stopped
    assert result.after.reward_sampled == 1.0
    assert result.after.accuracy_greedy == 1.0
    assert result.after.prompts_solved == 4
    assert result.after.policy_version == result.policy_version
    assert result.before.reward_sampled == pytest.approx(0.25 * 1.0 - 0.75 * 0.5)
    assert [step.step for step in logger.steps] == list(range(1, result.steps + 1))


def test_solved_groups_are_neither_trained_nor_synced(tmp_path: Any) -> None:
    model = FakeModel(skill=1.0)
    result, logger = run(config(tmp_path, max_steps=3), model)
    assert not any(event.startswith(("update", "sync")) for event in model.events)
    assert result.policy_version == 0
    assert [step.groups_solved for step in logger.steps] == [2, 2, 2]
    assert all(step.loss == 0.0 and step.tree_tokens == 0 for step in logger.steps)


def test_collapsed_prompts_climb_the_ladder_and_come_back(tmp_path: Any) -> None:
    model = FakeModel(skill=0.0, pace=0.5)
    _, logger = run(config(tmp_path, max_steps=5), model)
    temperatures = [max(one.scored.group.temperature for one in groups) for groups in logger.groups]
    assert temperatures[0] == 1.0
    assert max(temperatures) == pytest.approx(1.4)
    assert logger.steps[0].groups_collapsed == 2
    assert logger.steps[0].groups_trained == 0
    assert model.trained_version > 0


def test_a_prompt_that_is_never_right_is_sampled_more_and_hotter(tmp_path: Any) -> None:
    model = FakeModel(skill=0.0, pace=0.0)
    settings = with_signal(config(tmp_path, max_steps=9), rescue_max_temperature=1.0, stop_without_signal=False)
    _, logger = run(settings, model)
    sizes = [{one.scored.group.num_generations for one in groups} for groups in logger.groups]
    assert sizes == [{8}] * 6 + [{32}] * 3  # 4 prompts, 2 a step: every one was visited three times
    assert [step.groups_rescued for step in logger.steps] == [0] * 6 + [2] * 3
    _, logger = run(with_signal(settings, rescue=False), FakeModel(skill=0.0, pace=0.0))
    assert {one.scored.group.num_generations for groups in logger.groups for one in groups} == {8}


@dataclass
class NeverRight(SamplesAtOnce):
    """A policy that never finds the right answer: `wrong`, and `crumbs` samples of something else."""

    crumbs: int
    requests: list[SampleRequest] = field(default_factory=list)

    def sample(self, requests: Sequence[SampleRequest]) -> tuple[Group, ...]:
        self.requests += requests
        return tuple(self._group(request) for request in requests)

    def _group(self, request: SampleRequest) -> Group:
        rest = min(self.crumbs, request.num_generations - 1)
        counts = {"wrong": request.num_generations - rest, "other": rest}
        completions = tuple(completion(text, count) for text, count in counts.items() if count)
        return Group(request.prompt, completions, request.temperature, 0)


@dataclass(frozen=True)
class Recorder:
    """A learner that keeps its batches."""

    learner: Learner
    batches: list[Batch] = field(default_factory=list)

    def update(self, batch: Batch) -> RankReport:
        self.batches.append(batch)
        return self.learner.update(batch)


def test_a_hotter_group_leaves_the_least_likely_tokens_out(tmp_path: Any) -> None:
    generator = NeverRight(crumbs=0)
    run(with_signal(config(tmp_path, max_steps=4), rescue_min_p=0.02), FakeModel(), generator=generator)
    hot = {request.min_p for request in generator.requests if request.temperature > 1.0}
    rest = {request.min_p for request in generator.requests if request.temperature <= 1.0}
    assert (hot, rest) == ({0.02}, {0.0})


def test_a_group_without_a_right_answer_is_led_away_from_the_crowd(tmp_path: Any) -> None:
    model = FakeModel()
    recorder = Recorder(FakeLearner(model))
    run(config(tmp_path, max_steps=1), model, generator=NeverRight(crumbs=2), learner=recorder)
    (batch,) = recorder.batches
    crowd, rest = 0.5 / 0.75 - 1, 0.5 / 0.25 - 1  # wanted share over share, less 1
    assert sorted(batch.forests[0][0].advantages) == pytest.approx([crowd] * 2 + [rest] * 2)


def test_a_right_answer_that_no_longer_comes_is_recalled(tmp_path: Any) -> None:
    class OnlyOnceRight(NeverRight):
        def _group(self, request: SampleRequest) -> Group:
            group = super()._group(request)
            sampled = [r for r in self.requests if r.prompt.id == request.prompt.id and r.temperature]
            first = len(sampled) == 2 and request.prompt.id == "p0"  # after the evaluation
            return replace(group, completions=(completion("right", 8),)) if first else group

    def train(**signal: Any) -> tuple[list[Batch], FakeLogger]:
        model = FakeModel()
        recorder = Recorder(FakeLearner(model))
        settings = with_signal(
            config(tmp_path, max_steps=6), rescue_max_temperature=1.0, stop_without_signal=False, **signal
        )
        generator = OnlyOnceRight(crumbs=0)
        _, logger = run(settings, model, generator=generator, learner=recorder, prompts=PROMPTS[:2])
        return recorder.batches, logger

    batches, logger = train()
    # Step 1 is right, steps 2 to 4 are misses; p1, which never was right, is sampled four times as often instead.
    assert [step.groups_trained for step in logger.steps] == [0, 0, 0, 0, 1, 1]
    assert [step.completions for step in logger.steps] == [16] * 3 + [8 + 32] * 3
    forest = batches[0].forests[0][0]
    assert sorted(zip(forest.weights.tolist(), np.isnan(forest.sampler_logprobs[:, 0]).tolist(), strict=True)) == [
        (1, True),
        (8, False),
    ]
    assert [step.groups_rescued for step in logger.steps] == [0, 0, 0, 1, 2, 2]
    assert logger.steps[-1].correct == 0.0  # it was not sampled
    assert train(rescue=False)[0] == train(without_best="train")[0] == []


class NeverTheSame(SamplesAtOnce):
    """Every sample is another text; every other one is right."""

    def sample(self, requests: Sequence[SampleRequest]) -> tuple[Group, ...]:
        return tuple(
            Group(
                request.prompt,
                tuple(
                    replace(completion("right" if i % 2 else "wrong", 1), token_ids=np.array([5 + i, 3], np.int32))
                    for i in range(request.num_generations)
                ),
                request.temperature,
                0,
            )
            for request in requests
        )


def test_where_no_completion_repeats_a_step_costs_no_more_than_it_may(tmp_path: Any) -> None:
    settings = config(tmp_path, {"max_distinct_completions": 4}, max_steps=2, evaluation_prompts=0)
    settings = settings.model_copy(update={"sampling": settings.sampling.model_copy(update={"num_generations": 40})})
    model = FakeModel()
    recorder = Recorder(FakeLearner(model))
    _, logger = run(settings, model, generator=NeverTheSame(), learner=recorder, prompts=PROMPTS[:2])
    assert [step.completions for step in logger.steps] == [8, 8]  # half are right: 4 hold two of each
    for batch in recorder.batches:
        forest = batch.forests[0][0]
        assert len(forest.weights) == 8
        assert forest.weights.sum() == pytest.approx(80, rel=0.01)
        assert batch.num_samples == 80  # it stands for two whole groups
        assert batch.num_tokens == 160
        assert (forest.weights * forest.advantages).sum() == pytest.approx(0, abs=0.5)


def test_where_no_completion_repeats_a_baseline_takes_fewer_samples(tmp_path: Any) -> None:
    settings = config(tmp_path, {"max_distinct_completions": 4}, max_steps=2)
    settings = settings.model_copy(update={"sampling": settings.sampling.model_copy(update={"num_generations": 40})})
    _, logger = run(settings, FakeModel(), generator=NeverTheSame())
    before, after = (evaluation for _, evaluation in logger.evaluations)
    assert (max(before.pass_at), max(after.pass_at)) == (4, 40)
    assert logger.steps[0].completions == 2 * 4  # it tells what the first step's groups need
    assert before.reward_sampled == after.reward_sampled
    _, logger = run(settings, FakeModel(skill=0.5))  # two answers, again and again
    assert max(logger.evaluations[0][1].pass_at) == 40


def test_a_batchs_spread_is_over_groups_that_teach_nothing_too(tmp_path: Any) -> None:
    class FirstIsSolved(FakeGenerator):
        def _group(self, request: SampleRequest) -> Group:
            if request.prompt.id != "p0":
                return super()._group(request)
            right = completion("right", request.num_generations)
            return Group(request.prompt, (right,), request.temperature, 0)

    model = FakeModel(skill=0.5)
    recorder = Recorder(FakeLearner(model))
    settings = config(tmp_path, {"scale_rewards": "batch"}, max_steps=1)
    run(settings, model, generator=FirstIsSolved(model), learner=recorder, prompts=PROMPTS[:2])
    std = 1.5 * (0.75 * 0.25) ** 0.5  # three of four samples are right
    assert sorted(recorder.batches[0].forests[0][0].advantages) == pytest.approx([-0.75 / std, 0.75 / std], rel=1e-3)


def test_without_rescue_a_collapsed_run_never_updates(tmp_path: Any) -> None:
    settings = with_signal(config(tmp_path, max_steps=5), rescue=False)
    model = FakeModel(skill=0.0)
    run(settings, model)
    assert model.trained_version == 0


def test_limits_end_the_run_unreached(tmp_path: Any) -> None:
    result, _ = run(config(tmp_path, max_steps=1, target_reward=0.995), FakeModel(pace=0.0))
    assert (result.target, result.stop, result.steps) == (Target.MISSED, Stop.MAX_STEPS, 1)
    assert "run.max_steps" in result.stopped
    result, _ = run(config(tmp_path, max_steps=None, max_seconds=30, target_reward=0.995), FakeModel(pace=0.0))
    assert (result.target, result.stop) == (Target.MISSED, Stop.MAX_SECONDS)
    assert "run.max_seconds" in result.stopped


def test_without_a_target_nothing_is_missed(tmp_path: Any) -> None:
    result, _ = run(config(tmp_path, max_steps=2), FakeModel())
    assert (result.target, result.stop) == (Target.NONE, Stop.MAX_STEPS)


def test_an_interruption_ends_the_run_after_the_step_with_the_evaluation_at_hand(tmp_path: Any) -> None:
    model = FakeModel(pace=0.1)
    result, logger = run(config(tmp_path), model, interrupted=lambda: model.trained_version == 2)
    assert result.steps == len(logger.steps) == 2
    assert (result.stop, result.stopped) == (Stop.INTERRUPTED, "Interrupted.")
    assert result.after == result.before


def test_an_alarm_is_raised_once_with_the_step_it_began_at(tmp_path: Any) -> None:
    settings = config(tmp_path, max_steps=3)
    result, logger = run(settings, FakeModel(pace=0.1), logprob_gap=0.3)
    (text,) = logger.alarms
    assert "logprob_gap is 0.3" in text
    assert [(alarm.name, alarm.step, alarm.text) for alarm in result.alarms] == [("logprob_gap", 1, text)]

    result, logger = run(settings, FakeModel(pace=0.1))
    assert (logger.alarms, result.alarms) == ([], ())

    quantised = settings.model_copy(update={"engine": EngineSettings(vllm={"quantization": "fp8"})})
    assert run(quantised, FakeModel(pace=0.1), logprob_gap=0.3)[1].alarms == []


def test_a_gap_to_an_older_policy_is_no_alarm(tmp_path: Any) -> None:
    class MovesOn(FakeLearner):
        """Only the groups that it did not sample itself are far from it."""

        def update(self, batch: Batch) -> RankReport:
            report = super().update(batch)
            return replace(report, logprob_gap=0.3 if self.model.trained_version > 1 else 0.0)

    model = FakeModel(pace=0.1)
    _, logger = run(ahead(config(tmp_path, max_steps=3)), model, learner=MovesOn(model))
    assert [step.logprob_gap for step in logger.steps] == [0.0, 0.3, 0.3]
    assert logger.alarms == []
    model = FakeModel(pace=0.1)
    _, logger = run(ahead(config(tmp_path, max_steps=3)), model, logprob_gap=0.3)
    assert len(logger.alarms) == 1  # the first step has no lag


def test_a_step_whose_completions_are_all_cut_off_has_no_update(tmp_path: Any) -> None:
    model = FakeModel(finish_reason="length")
    result, logger = run(config(tmp_path, {"mask_truncated_completions": True}, max_steps=3), model)
    assert not any(event.startswith(("update", "sync")) for event in model.events)
    assert result.policy_version == 0
    assert [(step.groups_learning, step.groups_trained) for step in logger.steps] == [(2, 0)] * 3
    run(config(tmp_path, max_steps=3), model)
    assert model.trained_version == 3


def test_overlong_completions_are_punished_before_they_are_judged(tmp_path: Any) -> None:
    """Answers have two tokens, of at most two: each is worth 1.0 less to a step, and no less to the target."""
    settings = config(tmp_path, {"soft_punish_cache": 2}, target_reward=0.995)
    result, logger = run(settings, FakeModel(skill=0.5))
    assert logger.steps[0].reward_mean == pytest.approx(0.5 * (1.0 - 1.0) + 0.5 * (-0.5 - 1.0))
    assert result.before.reward_sampled == pytest.approx(0.5 * 1.0 - 0.5 * 0.5)
    assert sum(step.groups_solved for step in logger.steps) > 0  # all right, if overlong
    assert "target" in result.stopped


def test_metrics_count_samples_not_distinct_completions(tmp_path: Any) -> None:
    _, logger = run(config(tmp_path, max_steps=1), FakeModel(skill=0.25))
    step = logger.steps[0]
    assert (step.completions, step.distinct_completions) == (16, 4)
    assert step.correct == 0.25
    assert step.reward_mean == pytest.approx(0.25 - 0.75 * 0.5)
    assert step.reward_std == pytest.approx(1.5 * (0.25 * 0.75) ** 0.5)
    assert step.dense_tokens == 16 * 5
    assert step.groups_learning == step.groups_trained == 2


class AnythingGoes:
    """Every answer is right."""

    def score(self, groups: Sequence[Group]) -> tuple[ScoredGroup, ...]:
        return tuple(ScoredGroup(g, tuple(Verdict(1.0, "correct") for _ in g.completions)) for g in groups)


def test_a_run_without_signal_stops_and_says_why(tmp_path: Any) -> None:
    settings = with_signal(config(tmp_path, target_reward=0.995), rescue=False)
    result, logger = run(settings, FakeModel(skill=0.0))
    assert (result.stop, result.target, result.steps) == (Stop.CANNOT_LEARN, Target.MISSED, 3)
    assert result.diagnosis is not None and result.diagnosis.cause == "collapsed"
    assert result.verdict == result.diagnosis.verdict
    assert logger.alarms == []


def test_a_rescue_that_works_is_given_its_time(tmp_path: Any) -> None:
    result, logger = run(config(tmp_path, target_reward=0.995), FakeModel(skill=0.0, pace=0.1))
    assert logger.steps[0].groups_collapsed == 2
    assert (result.stop, result.target, result.diagnosis) == (Stop.TARGET, Target.REACHED, None)


def test_it_stops_three_steps_after_the_last_lesson(tmp_path: Any) -> None:
    class RightAtFirst(FakeScorer):
        def score(self, groups: Sequence[Group]) -> tuple[ScoredGroup, ...]:
            if groups[0].policy_version == 0:
                return super().score(groups)
            return tuple(ScoredGroup(g, tuple(Verdict(-0.5, "wrong") for _ in g.completions)) for g in groups)

    settings = with_signal(config(tmp_path, target_reward=0.995), rescue=False, without_best="skip")
    result, logger = run(settings, FakeModel(skill=0.5, pace=0.0), scorer=RightAtFirst())
    assert [step.groups_trained for step in logger.steps] == [2, 0, 0, 0]
    assert result.stop is Stop.CANNOT_LEARN


def test_a_run_that_may_not_stop_says_why_once_and_goes_on(tmp_path: Any) -> None:
    settings = with_signal(config(tmp_path, max_steps=8), rescue=False, stop_without_signal=False)
    result, logger = run(settings, FakeModel(skill=0.0))
    assert (result.stop, result.target, result.steps) == (Stop.MAX_STEPS, Target.NONE, 8)
    assert result.diagnosis is not None and result.diagnosis.cause == "collapsed"
    assert [alarm.name for alarm in result.alarms] == ["collapsed"]
    (text,) = logger.alarms
    assert "collapsed onto one wrong answer" in text and "signal.rescue: true" in text


def test_one_trial_is_held_for_a_silence(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    held = []

    def hold(*_: Any) -> trial.Trial:
        held.append("once")
        return trial.NOTHING_PROVED

    monkeypatch.setattr(trial, "hold", hold)
    settings = with_signal(config(tmp_path, max_steps=8), rescue=False, stop_without_signal=False)
    run(settings, FakeModel(skill=0.0))
    assert held == ["once"]


def test_a_target_that_any_answer_reaches_is_no_success(tmp_path: Any) -> None:
    settings = config(tmp_path, target_reward=0.995)
    result, _ = run(settings, FakeModel(skill=0.5), scorer=AnythingGoes())
    assert (result.stop, result.target, result.steps) == (Stop.CANNOT_LEARN, Target.MISSED, 0)
    assert result.diagnosis is not None and result.diagnosis.cause == "unverifiable_reward"

    result, _ = run(settings, FakeModel(skill=1.0))  # a policy that knew it all before
    assert (result.stop, result.target, result.steps, result.diagnosis) == (Stop.TARGET, Target.REACHED, 0, None)


def test_a_solved_run_without_a_target_goes_on_to_its_limit(tmp_path: Any) -> None:
    result, _ = run(config(tmp_path, max_steps=7), FakeModel(skill=1.0))
    assert (result.stop, result.steps, result.diagnosis) == (Stop.MAX_STEPS, 7, None)


def test_too_much_data_for_the_budget_is_said_before_the_first_step(tmp_path: Any) -> None:
    many = [prompt(f"p{index}") for index in range(9)]
    settings = config(tmp_path, max_steps=2, target_reward=0.995)
    result, _ = run(settings, FakeModel(), prompts=many)
    assert (result.stop, result.target, result.steps) == (Stop.CANNOT_LEARN, Target.MISSED, 0)
    assert result.diagnosis is not None and result.diagnosis.cause == "data_too_large"
    assert run(settings, FakeModel(), prompts=many[:8])[0].steps == 2


def test_a_healthy_run_has_a_verdict_too(tmp_path: Any) -> None:
    result, _ = run(config(tmp_path, target_reward=0.995), FakeModel())
    rewards = "the mean reward went from -0.125 to 1.000"
    assert result.verdict == f"The target, a mean reward of 0.995, is reached: {rewards} in {result.steps} steps."
    model = FakeModel(pace=0.1)
    result, _ = run(config(tmp_path), model, interrupted=lambda: model.trained_version == 2)
    assert result.verdict.startswith("Interrupted: the mean reward went from")
    assert result.diagnosis is None


def test_a_run_in_which_nothing_ever_taught_says_why_at_its_limit(tmp_path: Any) -> None:
    """It still had rescues to try."""

    class NeverRight(FakeScorer):
        def score(self, groups: Sequence[Group]) -> tuple[ScoredGroup, ...]:
            return tuple(ScoredGroup(g, tuple(Verdict(-0.5, "wrong") for _ in g.completions)) for g in groups)

    limited = [with_signal(config(tmp_path, max_steps=steps), without_best="skip") for steps in (2, 3)]
    result, _ = run(limited[1], FakeModel(skill=0.0, pace=0.0), scorer=NeverRight())
    assert (result.stop, result.steps, result.policy_version) == (Stop.MAX_STEPS, 3, 0)
    assert result.diagnosis is not None and result.diagnosis.cause == "collapsed"
    assert result.verdict == result.diagnosis.verdict
    early, _ = run(limited[0], FakeModel(skill=0.0, pace=0.0), scorer=NeverRight())
    assert early.diagnosis is None


def test_a_run_that_only_ever_spread_says_why_at_its_limit_too(tmp_path: Any) -> None:
    """Spreading makes updates, and is no learning."""
    model = FakeModel()
    result, logger = run(config(tmp_path, max_steps=6), model, generator=NeverRight(crumbs=2))
    assert sum(step.groups_spread for step in logger.steps) > 0 and result.policy_version > 0
    assert result.stop is Stop.MAX_STEPS
    assert result.diagnosis is not None and result.diagnosis.cause == "out_of_reach"
    assert result.never_right == tuple(prompt.id for prompt in PROMPTS)


def test_prompts_that_were_never_right_are_named_beside_others_that_are(tmp_path: Any) -> None:
    class OneIsHard(FakeScorer):
        def score(self, groups: Sequence[Group]) -> tuple[ScoredGroup, ...]:
            return tuple(
                ScoredGroup(scored.group, tuple(Verdict(-0.5, "wrong") for _ in scored.verdicts))
                if scored.group.prompt.id == "p1"
                else scored
                for scored in super().score(groups)
            )

    for steps, never in ((2, ()), (8, ("p1",))):
        result, _ = run(config(tmp_path, max_steps=steps), FakeModel(), scorer=OneIsHard(), prompts=PROMPTS[:2])
        assert result.never_right == never


def test_a_reward_that_is_the_target_but_for_rounding_is_evaluated(tmp_path: Any) -> None:
    class Rounded(FakeScorer):
        def score(self, groups: Sequence[Group]) -> tuple[ScoredGroup, ...]:
            nearly = Verdict(sum([0.1] * 10), "correct")
            return tuple(
                ScoredGroup(g.group, tuple(nearly if v.outcome == "correct" else v for v in g.verdicts))
                for g in super().score(groups)
            )

    result, _ = run(config(tmp_path, target_reward=1.0), FakeModel(), scorer=Rounded())
    assert (result.stop, result.target) == (Stop.TARGET, Target.REACHED)


def test_an_interruption_in_the_step_that_reaches_the_target_is_none(tmp_path: Any) -> None:
    model = FakeModel(skill=0.5, pace=0.5)
    settings = config(tmp_path, target_reward=0.995)
    asked = count()
    result, _ = run(settings, model, interrupted=lambda: next(asked) >= 2, prompts=PROMPTS[:2])
    assert (result.stop, result.target) == (Stop.TARGET, Target.REACHED)


def test_a_trial_compares_rewards_as_the_function_gave_them(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not less what was taken off for length, which answers of the data are spared."""
    shown: list[ScoredGroup] = []

    def hold(groups: Sequence[ScoredGroup], *_: Any) -> trial.Trial:
        shown.extend(groups)
        return trial.NOTHING_PROVED

    monkeypatch.setattr(trial, "hold", hold)
    settings = with_signal(config(tmp_path, {"soft_punish_cache": 2}, max_steps=8), rescue=False)
    run(settings, FakeModel(skill=0.0))
    assert {float(reward) for group in shown for reward in group.rewards} == {-0.5}


HELD_OUT = [prompt(f"held-out-{index}") for index in range(2)]


def test_held_out_prompts_are_evaluated_every_so_many_steps_and_never_trained_on(tmp_path: Any) -> None:
    settings = config(tmp_path, max_steps=5, eval_steps=2)
    model = FakeModel(skill=0.125, pace=0.125)
    result, logger = run(settings, model, held_out=HELD_OUT)
    assert [(on, one.step) for on, one in logger.evaluations] == [
        ("train", 0), ("eval", 0), ("eval", 2), ("eval", 4), ("train", 5), ("eval", 5),
    ]  # fmt: skip
    held_out = [one for on, one in logger.evaluations if on == "eval"]
    assert [one.pass_at[1] for one in held_out] == [0.125, 0.375, 0.625, 0.75]
    assert all({prompt.prompt_id for prompt in one.prompts} == {"held-out-0", "held-out-1"} for one in held_out)
    assert not {one.scored.group.prompt.id for groups in logger.groups for one in groups} & {"held-out-0"}
    assert result.held_out is not None and result.held_out.before == held_out[0]
    assert result.held_out.latest == held_out[-1]
    assert "that of held-out prompts from" in result.verdict
    plain, without = run(config(tmp_path, max_steps=5), FakeModel(skill=0.125, pace=0.125))
    assert without.steps == logger.steps and plain.held_out is None  # they change nothing


def test_the_target_may_be_of_held_out_prompts(tmp_path: Any) -> None:
    settings = config(tmp_path, target_reward=0.995, eval_steps=3)
    settings = settings.model_copy(update={"run": settings.run.model_copy(update={"target_on": "eval"})})
    result, _ = run(settings, FakeModel(skill=0.5, pace=0.25), held_out=HELD_OUT)
    assert (result.stop, result.target, result.steps) == (Stop.TARGET, Target.REACHED, 3)


def test_without_held_out_prompts_those_trained_on_are_evaluated(tmp_path: Any) -> None:
    _, logger = run(config(tmp_path, max_steps=3, eval_steps=1), FakeModel(skill=0.125, pace=0.125))
    assert [(on, one.step) for on, one in logger.evaluations] == [("train", step) for step in range(4)]


def test_a_run_can_do_without_evaluations(tmp_path: Any) -> None:
    result, logger = run(config(tmp_path, max_steps=3, evaluation_prompts=0), FakeModel(skill=0.25, pace=0.25))
    assert not logger.evaluations and result.policy_version == 3
    assert (
        result.verdict == "All 3 steps (run.max_steps) are done: the mean reward went from 0.062 to 0.438 in 3 steps."
    )


class OwnScorer(FakeScorer):
    """0 for wrong answers, and `best` for right ones, as a function of one's own may say."""

    def __init__(self, best: float = 1.0) -> None:
        self.best = best

    def score(self, groups: Sequence[Group]) -> tuple[ScoredGroup, ...]:
        return tuple(
            ScoredGroup(
                scored.group,
                tuple(Verdict(self.best, v.outcome) if v.outcome == "correct" else Verdict(0.0, "wrong")
                      for v in scored.verdicts),
            )
            for scored in super().score(groups)
        )  # fmt: skip


def own(settings: Config) -> Config:
    task = settings.task.model_copy(update={"name": None, "dataset": "mine.jsonl", "reward": "mine.py:exact"})
    return settings.model_copy(update={"task": task})


def test_rewards_of_one_s_own_that_tell_right_from_wrong_are_said_to(tmp_path: Any) -> None:
    settings = own(config(tmp_path, max_steps=2))
    result, logger = run(settings, FakeModel(skill=0.5, pace=0.0), scorer=OwnScorer())
    assert logger.notes == [
        "Groups without a right answer are spread, rescued and searched for one, as those of built-in tasks. The "
        "rewards so far are 0, 1: they tell right (1) from wrong. signal.without_best overrules it."
    ]
    assert result.without_best.mode == "spread"
    above, logger = run(settings, FakeModel(skill=0.5, pace=0.0), scorer=OwnScorer(best=2.0))
    assert above.without_best.mode == "train" and "2 is above task.best_reward 1" in logger.notes[0]
    built_in, logger = run(config(tmp_path, max_steps=2), FakeModel(skill=0.5, pace=0.0))
    assert built_in.without_best.mode == "spread" and not logger.notes


def test_what_rewards_are_taken_for_can_change_and_is_said_then(tmp_path: Any) -> None:
    """Two rewards, and none the best, until a right answer comes."""

    class Graded(OwnScorer):
        def score(self, groups: Sequence[Group]) -> tuple[ScoredGroup, ...]:
            if groups[0].policy_version:
                return super().score(groups)
            graded = {"right": Verdict(0.5, "wrong"), "wrong": Verdict(0.0, "wrong")}
            return tuple(ScoredGroup(g, tuple(graded[c.text] for c in g.completions)) for g in groups)

    result, logger = run(own(config(tmp_path, max_steps=3)), FakeModel(skill=0.5, pace=0.0), scorer=Graded())
    assert result.without_best.mode == "spread"
    before, after = logger.notes
    assert "are trained on as they are. The rewards so far are 0, 0.5: none is right" in before
    assert "The rewards so far are 0, 0.5, 1: they tell right (1) from wrong" in after


def test_a_plateau_asks_the_reward_function_once(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    held = []

    def hold(*_: Any) -> trial.Trial:
        held.append("once")
        return trial.NOTHING_PROVED

    monkeypatch.setattr(trial, "hold", hold)
    settings = with_signal(
        config(tmp_path, max_steps=110, target_reward=0.995), stop_without_signal=False, without_best="train"
    )

    class NearMisses(FakeScorer):
        def score(self, groups: Sequence[Group]) -> tuple[ScoredGroup, ...]:
            return tuple(
                ScoredGroup(g, tuple(Verdict(-0.1 * len(c.text), "wrong") for c in g.completions)) for g in groups
            )

    model = FakeModel(skill=0.5, pace=0.0)
    result, _ = run(settings, model, scorer=NearMisses(), generator=Drifting(model), prompts=PROMPTS[:2])
    assert [alarm.name for alarm in result.alarms] == ["out_of_reach"]
    assert held == ["once"]


class Drifting(FakeGenerator):
    """The policy moves with every update."""

    def _group(self, request: SampleRequest) -> Group:
        group = super()._group(request)
        moved = np.array([-0.5 - 0.1 * (self.model.trained_version % 5), -0.1], np.float32)
        return replace(group, completions=tuple(replace(c, logprobs=moved) for c in group.completions))


@dataclass
class KeptStates:
    """Checkpoints of every step and of the end."""

    between: list[RunState] = field(default_factory=list)
    end: list[RunState] = field(default_factory=list)

    def between_steps(self, state: RunState) -> None:
        self.between.append(state)

    def at_end(self, state: RunState) -> None:
        self.end.append(state)


def trained(
    settings: Config, model: FakeModel, ports: Ports, kept: KeptStates, state: RunState | None = None
) -> Result:
    run = Run(settings, tuple(PROMPTS), best_reward=1.0, dtype="float32")
    return loop.train(run, ports, state, checkpoints=kept, clock=lambda: 0.0)


def ports_of(model: FakeModel, **others: Any) -> Ports:
    usual = {
        "generator": FakeGenerator(model),
        "scorer": FakeScorer(),
        "learner": FakeLearner(model),
        "weight_sync": FakeWeightSync(model),
        "logger": FakeLogger(),
    }
    return Ports(**{**usual, **others})


@pytest.mark.parametrize("one_ahead", [False, True])
def test_from_every_checkpoint_the_run_goes_on_as_it_did(tmp_path: Any, one_ahead: bool) -> None:
    settings = config(tmp_path, max_steps=6)
    settings = ahead(settings) if one_ahead else settings
    model, kept, whole = FakeModel(skill=0.1, pace=0.12), KeptStates(), FakeLogger()
    result = trained(settings, model, ports_of(model, logger=whole), kept)
    assert [state.step for state in kept.between] == [0, 1, 2, 3, 4, 5]
    assert [state.step for state in kept.end] == [6]
    for state in kept.between[1:]:
        assert [one.policy_version for one in state.ahead] == [state.policy_version - 1] * (2 * one_ahead)
        version = state.policy_version
        again = FakeModel(
            skill=0.1 + 0.12 * (version - 1), pace=0.12, trained_version=version, synced_version=version - 1
        )
        logger = FakeLogger()
        restored = RunState.from_json(json.loads(json.dumps(state.to_json())))
        assert trained(settings, again, ports_of(again, logger=logger), KeptStates(), restored) == result
        assert logger.steps == whole.steps[state.step :]


@pytest.mark.parametrize("phase", ["sample", "score", "begin", "update", "log", "evaluate"])
def test_whatever_fails_the_last_state_fits_the_ranks(tmp_path: Any, phase: str) -> None:
    model, kept = FakeModel(skill=0.25, pace=0.25), KeptStates()
    asked = count()

    class Fails(Exception):
        pass

    def failing(port: Any, method: str, at: int) -> Any:
        real = getattr(port, method)

        def call(*arguments: Any) -> Any:
            if next(asked) == at:
                raise Fails
            return real(*arguments)

        return type("Port", (), {**{name: getattr(port, name) for name in dir(port) if name[0] != "_"}, method: call})

    usual = ports_of(model)
    others = {
        "sample": lambda: {"generator": failing(usual.generator, "sample", 3)},
        "score": lambda: {"scorer": failing(usual.scorer, "score", 3)},
        "begin": lambda: {"generator": failing(usual.generator, "begin", 1)},
        "update": lambda: {"learner": failing(usual.learner, "update", 1)},
        "log": lambda: {"logger": failing(usual.logger, "step", 1)},
        "evaluate": lambda: {"generator": failing(usual.generator, "sample", 6)},
    }[phase]()
    settings = config(tmp_path, max_steps=9, target_reward=0.9)
    settings = ahead(settings) if phase == "begin" else settings
    with pytest.raises(Fails):
        trained(settings, model, ports_of(model, **others), kept)
    (state,) = kept.end
    assert state.policy_version == model.trained_version
    assert state.step == {"sample": 1, "score": 1, "begin": 1, "update": 1, "log": 2, "evaluate": 4}[phase]


def test_a_port_that_was_interrupted_ends_the_run_as_it_is(tmp_path: Any) -> None:
    model, kept = FakeModel(), KeptStates()

    class Stopped(FakeGenerator):
        def sample(self, requests: Sequence[SampleRequest]) -> tuple[Group, ...]:
            if model.trained_version == 2:
                raise Interrupted
            return super().sample(requests)

    result = trained(config(tmp_path, max_steps=9), model, ports_of(model, generator=Stopped(model)), kept)
    assert (result.stop, result.steps) == (Stop.INTERRUPTED, 2)
    assert [state.step for state in kept.end] == [2]


@pytest.mark.parametrize("error", [Interrupted, RuntimeError])
def test_what_was_sampled_ahead_and_is_not_there_is_sampled_by_who_goes_on(
    tmp_path: Any, error: type[Exception]
) -> None:
    """The update is done, so the state is that after the step: it fits the ranks."""
    model, kept = FakeModel(skill=0.1, pace=0.1), KeptStates()

    class Lost(FakeGenerator):
        def begin(self, requests: Sequence[SampleRequest]) -> Collect:
            collect = super().begin(requests)

            def at_first(policy_version: int) -> tuple[Group, ...]:
                if policy_version == 3:
                    raise error
                return collect(policy_version)

            return at_first

    settings, ports = ahead(config(tmp_path, max_steps=5)), ports_of(model, generator=Lost(model))
    if error is Interrupted:
        assert trained(settings, model, ports, kept).stop is Stop.INTERRUPTED
    else:
        with pytest.raises(error):
            trained(settings, model, ports, kept)
    (state,) = kept.end
    assert (state.step, state.policy_version, model.trained_version, state.ahead) == (3, 3, 3, ())
    logger = FakeLogger()
    trained(settings, model, ports_of(model, logger=logger), KeptStates(), state)
    assert [(step.policy_version, step.policy_lag) for step in logger.steps] == [(3, 0), (3, 1)]


def test_an_interruption_loses_nothing_that_was_sampled_ahead(tmp_path: Any) -> None:
    settings, whole = ahead(config(tmp_path, max_steps=6)), FakeLogger()
    model = FakeModel(skill=0.1, pace=0.12)
    trained(settings, model, ports_of(model, logger=whole), KeptStates())

    model, kept, logger = FakeModel(skill=0.1, pace=0.12), KeptStates(), FakeLogger()

    class Stopped(FakeScorer):
        def score(self, groups: Sequence[Group]) -> tuple[ScoredGroup, ...]:
            if model.trained_version == 3:
                raise Interrupted
            return super().score(groups)

    trained(settings, model, ports_of(model, scorer=Stopped(), logger=logger), kept)
    (state,) = kept.end
    assert (state.step, len(state.ahead)) == (3, 2)
    trained(settings, model, ports_of(model, logger=logger), KeptStates(), state)
    assert [without_seconds(step) for step in logger.steps] == [without_seconds(step) for step in whole.steps]
