"""`cohort check` without an engine: scripted answers in place of a policy's."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from configs.derived import derived
from configs.schema import Config, TrainingSettings
from generation.engine import SampleRequest
from generation.groups import Group
from launch.__main__ import main
from launch.check.advice import chances, recommend
from launch.check.findings import Finding, find
from launch.check.forecast import EXAMPLE_FORECAST, Forecast, forecast, probe_forest
from launch.check.look import Look, count, look, nodes, reduced
from launch.check.page import WIDTH, _seconds, show, verdict
from launch.prepare import Prepared
from launch.task_scorer import TaskScorer
from rewards.judges import Answer
from rewards.prompts import Prompt, Verdict
from rewards.task import Task
from tests.fakes import completion
from tests.tiny import load_tiny_model, make_tiny_model
from trainer.update.lora import adapter_size
from trainer.update.model import linear_layers, weight_shapes
from trainer.update.model_shape import EXAMPLE_SHAPE
from trainer.update.probe import EXAMPLE_UPDATE_COST, UpdateCost, probe

Shares = Mapping[str, float]
"""Text -> its share of the samples. A text that ends in "..." is cut off."""


@dataclass
class Scripted:
    """`trainer.ports.Sampler`: splits every group by the shares of its temperature. clock: seconds; sampling moves
    it on by `pace` for every sample."""

    shares: Mapping[float, Shares]
    pace: float = 0.0
    clock: float = 0.0
    asked: list[tuple[float, int, int]] = field(default_factory=list)  # temperature, prompts, samples

    def sample(self, requests: Sequence[SampleRequest]) -> tuple[Group, ...]:
        temperature, samples = requests[0].temperature, requests[0].num_generations
        self.asked.append((temperature, len(requests), samples))
        self.clock += self.pace * samples * len(requests)
        nearest = min(self.shares, key=lambda known: abs(known - temperature))
        return tuple(_group(request, self.shares[nearest]) for request in requests)


def _group(request: SampleRequest, shares: Shares) -> Group:
    draw = np.random.default_rng(request.seed)
    counts = draw.multinomial(request.num_generations, list(shares.values()))
    completions = [
        completion(text, int(number), "length" if text.endswith("...") else "stop")
        for text, number in zip(shares, counts, strict=True)
        if number
    ]
    return Group(request.prompt, tuple(completions), request.temperature, policy_version=0)


def answered(prompt: Prompt, answers: Sequence[Answer]) -> Sequence[Verdict]:
    """Right is the prompt's own answer; an answer is one letter."""
    return [
        Verdict(-1.0, "truncated")
        if answer.truncated
        else Verdict(1.0, "correct")
        if answer.text == prompt.columns["answer"]
        else Verdict(-0.5, "wrong")
        if len(answer.text) == 1
        else Verdict(-1.0, "malformed")
        for answer in answers
    ]


def by_numbers(rewards: Mapping[str, float], other: float) -> Any:
    """A user's reward, which looks at nothing but the text."""

    def judge(prompt: Prompt, answers: Sequence[Answer]) -> Sequence[Verdict]:
        values = [rewards.get(answer.text, other) for answer in answers]
        return [Verdict(value, "correct" if value >= 1.0 else "wrong") for value in values]

    return judge


def a_task(judge: Any = answered, prompts: int = 20) -> Task:
    return Task(
        tuple(
            Prompt(f"{i}", ({"role": "user", "content": f"{i}?"},), {"answer": "ab"[i % 2]}, (1, i, 9), None)
            for i in range(prompts)
        ),
        best_reward=1.0,
        judge=judge,
    )


def a_config(**sections: Any) -> Config:
    task = sections.pop("task", {"name": "comparison"})
    return derived(Config.model_validate({"task": task, "run": {"max_seconds": 900}} | sections), gpus=0)


OWN = {"dataset": "mine.jsonl", "reward": "rewards.py:mine"}
MIXED = {"a": 0.3, "b": 0.2, "hm, a": 0.3, "well...": 0.2}


def seen(shares: Mapping[float, Shares] | Shares, of: Task | None = None, **sections: Any) -> Look:
    by_temperature: Any = shares if isinstance(next(iter(shares)), float) else {1.0: shares}
    of = of or a_task()
    return look(a_config(**sections), of, Scripted(by_temperature), TaskScorer(of, 1), lambda _: None)


def found(
    shares: Mapping[float, Shares] | Shares,
    of: Task | None = None,
    predicted: Forecast = EXAMPLE_FORECAST,
    **sections: Any,
) -> Sequence[Finding]:
    return find(seen(shares, of, **sections), a_config(**sections), of or a_task(), predicted)


def predicted(
    result: Look, config: Config, cost: UpdateCost = EXAMPLE_UPDATE_COST, gpus: int = 0, forks: bool = True
) -> Forecast:
    shape = replace(EXAMPLE_SHAPE, parameters=1)  # what is counted on the spot is taken
    return forecast(result, Prepared(config, gpus, "model", None, 64, shape, 0, a_task()), cost, forks)


def causes(findings: Sequence[Finding]) -> list[tuple[str, bool]]:
    return [(finding.cause, finding.fatal) for finding in findings]


def test_looks_at_eight_prompts_and_at_other_temperatures() -> None:
    generator = Scripted({1.0: MIXED})
    task = a_task()
    result = look(a_config(), task, generator, TaskScorer(task, 1), lambda _: None)
    assert generator.asked == [
        (1.0, 4, 16),
        (1.0, 4, 64),
        (1.0, 4, 256),
        (1.0, 4, 256),
        (0.7, 4, 256),
        (1.4, 4, 256),
    ]
    assert len({group.group.prompt.id for group in result.groups}) == 8
    assert [group.group.prompt for group in result.others[0.7]] == [g.group.prompt for g in result.groups[:4]]
    assert result.kinds == ("learning",) * 8
    assert result.trial.question_matters


def test_a_small_data_set_is_looked_at_whole_and_a_large_group_at_its_size() -> None:
    generator = Scripted({1.0: MIXED})
    task = a_task(prompts=3)
    config = a_config(sampling={"num_generations": 512, "prompts_per_step": 2})
    result = look(config, task, generator, TaskScorer(task, 1), lambda _: None)
    assert sorted(group.group.prompt.id for group in result.groups) == ["0", "1", "2"]
    assert {group.group.num_generations for group in (*result.groups, *result.others[0.7])} == {512}


@pytest.mark.parametrize(
    ("pace", "sizes", "prompts", "seconds"),  # pace: seconds of a sample; seconds: of the last batch
    [(0.015, [16, 64, 256], 4, 15.36), (0.05, [16, 64, 64], 8, 12.8), (0.3, [16], 4, 19.2)],
)
def test_slow_sampling_has_smaller_groups(pace: float, sizes: list[int], prompts: int, seconds: float) -> None:
    generator = Scripted({1.0: MIXED}, pace)
    task = a_task()
    result = look(a_config(), task, generator, TaskScorer(task, 1), lambda _: None, clock=lambda: generator.clock)
    assert generator.asked == [(1.0, 4, size) for size in sizes]
    assert generator.clock <= 30
    assert (len(result.groups), result.others) == (prompts, {})
    assert {group.group.num_generations for group in result.groups} == {sizes[-1]}
    assert result.seconds == pytest.approx(seconds)


def test_when_nothing_is_learnt_from_the_hottest_temperature_is_tried_too() -> None:
    generator = Scripted({1.0: {"x y": 1.0}})
    task = a_task()
    result = look(a_config(), task, generator, TaskScorer(task, 1), lambda _: None)
    assert [*result.others] == [0.7, 1.4, 2.0]


def test_reduced_groups_are_groups_of_that_size() -> None:
    whole = seen(MIXED).groups[0]
    draws = [reduced(whole, 64, seed) for seed in range(200)]
    assert {group.group.num_generations for group in draws} == {64}
    mean = np.mean([count(group, "correct") for group in draws])
    assert mean == pytest.approx(count(whole, "correct") / 4, rel=0.05)
    assert all(count(g, "correct") == sum(c.count for c, v in zip(g.group.completions, g.verdicts, strict=True)
               if v.reward == 1.0) for g in draws)  # fmt: skip
    assert reduced(whole, 256, 0) is whole


def test_chances_grow_with_the_group_and_know_solved_prompts() -> None:
    rare = seen({"a": 0.01, "b": 0.01, "no": 0.98})
    lines = chances(rare.groups)
    assert [line.num_generations for line in lines] == [8, 16, 32, 64, 128, 256]
    assert [line.right for line in lines] == sorted(line.right for line in lines)
    assert lines[0].right < 0.2
    assert lines[0].rare == 8
    assert lines[-1].right > 0.8
    assert lines[-1].rare == 0


def test_recommends_what_is_configured_where_it_does() -> None:
    advice = recommend(seen(MIXED), a_config())
    assert (advice.num_generations, advice.temperature) == (128, 1.0)
    assert "16 would do" in advice.reason


def test_recommends_a_larger_group_for_rare_right_answers() -> None:
    config = a_config(sampling={"num_generations": 8})
    advice = recommend(seen({"a": 0.04, "b": 0.04, "no": 0.92}, sampling={"num_generations": 8}), config)
    assert advice.num_generations in (64, 128)
    assert advice.temperature == 1.0
    assert f"at {advice.num_generations} generations" in advice.reason


def test_recommends_the_temperature_at_which_answers_differ() -> None:
    shares = {0.5: {"a": 1.0}, 1.0: MIXED}
    advice = recommend(seen(shares, sampling={"temperature": 0.5}), a_config(sampling={"temperature": 0.5}))
    assert advice.temperature in (1.0, 1.4)
    assert "instead of 0.5" in advice.reason


def test_a_run_with_signal_could_learn() -> None:
    assert found(MIXED) == ()


@pytest.mark.parametrize(
    ("shares", "cause"),
    [
        ({"the answer is": 0.6, "yes": 0.4}, "format_never_met"),
        ({"well...": 0.9, "so...": 0.1}, "truncated"),
        ({1.0: {"c": 1.0}}, "collapsed"),
    ],
)
def test_groups_of_one_reward_could_not_learn(shares: Any, cause: str) -> None:
    findings = found(shares)
    assert causes(findings) == [(cause, True)]
    assert findings[0].advice.endswith(".")


def test_a_collapse_that_a_rescue_mends_is_a_warning() -> None:
    shares = {1.0: {"c": 1.0}, 1.4: MIXED}
    assert causes(found(shares)) == [("temperature_trap", False)]
    without = found(shares, signal={"rescue": False})
    assert [finding.fatal for finding in without] == [True]


def test_wrong_answers_are_hopeless_only_where_the_run_does_not_spread_them() -> None:
    wrong = dict.fromkeys("cdefghijkl", 0.1)
    assert causes(found(wrong)) == [("out_of_reach", False)]
    findings = found(wrong, signal={"without_best": "skip"})
    assert causes(findings) == [("out_of_reach", True)]
    assert "none of 2,048 completions of 8 unsolved prompts are right" in findings[0].sentence


def test_a_constant_reward_teaches_nothing() -> None:
    texts = {f"text {i}": 0.05 for i in range(20)}
    task = a_task(by_numbers({}, other=0.25))
    assert causes(found(texts, task, task=OWN)) == [("constant_reward", True)]


def test_a_reward_that_ignores_the_question_is_not_verifiable() -> None:
    texts = {f"text {i}": 0.05 for i in range(20)}
    pattern = a_task(by_numbers({f"text {i}": 1.0 for i in range(10)}, other=0.0))
    assert causes(found(texts, pattern, task=OWN)) == [("unverifiable_reward", True)]
    echo = a_task(by_numbers({}, other=1.0))
    assert causes(found(texts, echo, task=OWN)) == [("unverifiable_reward", True)]
    without_answers = replace(pattern, prompts=tuple(replace(p, columns={}) for p in pattern.prompts))
    assert causes(found(texts, without_answers, task=OWN)) == [("unverifiable_reward", False)]


def test_solved_is_not_hopeless() -> None:
    def right(prompt: Prompt, answers: Sequence[Answer]) -> Sequence[Verdict]:
        return [Verdict(1.0, "correct") if a.text == "a" else Verdict(-1.0, "wrong") for a in answers]

    task = Task(a_task().prompts[::2], 1.0, right)
    result = seen({"a": 1.0}, task)
    assert set(result.kinds) == {"solved"}
    findings = find(result, a_config(), task, EXAMPLE_FORECAST)
    assert findings == ()
    assert verdict(result, findings).startswith("Already solved: all samples of all 8 prompts")


def test_a_budget_that_cannot_visit_the_prompts() -> None:
    task = a_task(prompts=200)
    run = {"target_reward": 0.9, "max_steps": 5}
    assert causes(found(MIXED, task, run=run)) == [("data_too_large", True)]
    assert found(MIXED, task, run=run | {"max_steps": 50}) == ()
    assert found(MIXED, task, run={"max_steps": 5}) == ()  # no target, nothing to answer for
    slow = replace(EXAMPLE_FORECAST, seconds={"sampling": 100.0})
    assert causes(found(MIXED, task, slow, run={"target_reward": 0.9, "max_seconds": 300})) == [
        ("data_too_large", True)
    ]
    assert found(MIXED, task, run={"target_reward": 0.9, "max_seconds": 300}) == ()


@pytest.mark.parametrize(
    ("rate", "cause"), [(1e-9, "learning_rate_too_low"), (0.1, "learning_rate_too_high"), (1e-5, None)]
)
def test_learning_rates_far_from_all_usual_ones(rate: float, cause: str | None) -> None:
    expected = [(cause, False)] if cause else []
    assert causes(found(MIXED, training={"learning_rate": rate})) == expected


def test_too_little_memory_is_a_warning() -> None:
    cramped = replace(EXAMPLE_FORECAST, available=1e9)
    assert causes(found(MIXED, predicted=cramped)) == [("memory", False)]


def test_the_forecast_scales_with_the_step() -> None:
    result = replace(seen(MIXED), seconds=2.0)
    small = a_config(sampling={"prompts_per_step": 4, "num_generations": 256})
    large = a_config(sampling={"prompts_per_step": 8, "num_generations": 256})
    few, many = (predicted(result, config) for config in (small, large))
    # The latest batch, of four prompts, took two seconds.
    assert few.seconds["sampling"] == pytest.approx(2.0 * nodes([g.group for g in result.groups]) / result.nodes / 2)
    assert many.seconds["sampling"] == pytest.approx(2 * few.seconds["sampling"])
    assert many.seconds["weight sync"] == few.seconds["weight sync"] > 0
    plain = predicted(result, a_config(sampling={"prompts_per_step": 4, "num_generations": 64}), forks=False)
    assert plain.seconds["sampling"] == pytest.approx(2.0 * 2 / 2 / 4, rel=0.3)  # without forks, samples count


def test_engines_that_sample_ahead_on_their_own_gpus_cost_only_what_they_take_longer() -> None:
    result = seen(MIXED)

    def step(gpus: int, ahead: int) -> Forecast:
        return predicted(result, a_config(sampling={"ahead": ahead}, engine={"engines": 1}), gpus=gpus)

    for gpus, ahead in ((2, 0), (1, 1), (0, 1)):
        assert step(gpus, ahead).seconds_per_step == pytest.approx(sum(step(gpus, ahead).seconds.values()))
    beside = step(2, 1)
    longer = max(beside.seconds["sampling"], beside.seconds["update"])
    assert beside.seconds_per_step == pytest.approx(longer + beside.seconds["weight sync"])
    assert "of which sampling and update go on at once" in _seconds(beside).plain


def test_what_larger_groups_than_were_seen_will_cost() -> None:
    """Where all samples differ it doubles with the group, up to what an update computes of it; where all are alike it
    stays."""
    rambling, alike = {"a" * length: 1 / 1024 for length in range(1, 1025)}, {"a": 1.0}  # a length is a token

    def tokens(shares: Shares, wanted: int, limit: int | None = None) -> float:
        task = a_task()
        slow = Scripted({1.0: shares}, pace=0.05)
        config = a_config(sampling={"num_generations": wanted}, training={"max_distinct_completions": limit})
        result = look(config, task, slow, TaskScorer(task, 1), lambda _: None, clock=lambda: slow.clock)
        assert result.groups[0].group.num_generations == 64
        return predicted(result, config).tree_tokens

    assert tokens(alike, 256) == tokens(alike, 64)
    assert tokens(rambling, 256) == pytest.approx(4 * tokens(rambling, 64), rel=0.2)
    assert tokens(rambling, 256, limit=8) == tokens(rambling, 64, limit=8) < tokens(rambling, 64)


def test_what_prompts_share_is_in_a_steps_tree_once() -> None:
    shared = tuple(range(10, 60))
    task = a_task()
    task = replace(task, prompts=tuple(replace(p, token_ids=(*shared, 100 + int(p.id), 9)) for p in task.prompts))
    result = seen(dict.fromkeys("ab", 0.5), task)

    def tokens(prompts: int) -> float:
        config = a_config(sampling={"prompts_per_step": prompts})
        return predicted(result, config).tree_tokens

    # A number, a last token, and the one token before the end that both answers, of one length, have.
    assert [tokens(prompts) for prompts in (1, 8, 16, 100)] == [50 + 3 * prompts for prompts in (1, 8, 16, 100)]


def test_memory_is_planned_with_what_was_measured() -> None:
    """The weights that were counted, the activations that were measured, of the micro-batch that was seen."""
    result = replace(seen(MIXED), seconds=2.0)
    plan = predicted(result, a_config()).plan
    assert plan.rank["weights"] == plan.engine["weights"] == 4 * EXAMPLE_UPDATE_COST.parameters
    tokens = predicted(result, a_config()).tree_tokens
    assert plan.rank["activations"] == tokens * EXAMPLE_UPDATE_COST.bytes_per_node
    narrow = predicted(result, a_config(training={"micro_batch_tokens": 8})).plan
    assert narrow.rank["activations"] == 8 * EXAMPLE_UPDATE_COST.bytes_per_node


def test_on_a_gpu_the_cache_is_what_the_engine_s_share_leaves() -> None:
    """Not what engine.kv_cache_gib says, and the rank has the rest."""
    cost = replace(EXAMPLE_UPDATE_COST, gpu_bytes=80 << 30, dtype="bfloat16")
    made = predicted(seen(MIXED), a_config(), cost, gpus=1)
    plan = made.plan
    assert sum(plan.engine.values()) == pytest.approx(0.45 * (80 << 30))
    assert plan.engine["keys and values"] > 20 << 30
    assert plan.shared and plan.rank_room == pytest.approx(0.55 * (80 << 30))
    assert made.available is None
    small = predicted(seen(MIXED), a_config(), replace(cost, gpu_bytes=2 << 30), gpus=1)
    findings = found(MIXED, predicted=small)
    assert causes(findings) == [("memory", False), ("memory", False)]
    assert "engine.gpu_memory_utilization: 0.45 of a GPU's 2.0 GiB" in findings[0].sentence


def test_an_update_is_timed_on_a_few_layers(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path)
    config = a_config()
    forest = probe_forest(seen(MIXED), config)
    few = probe(model, "float32", False, config.training, False, forest)
    assert few.parameters == sum(weight.numel() for weight in load_tiny_model(model).parameters())
    assert few.seconds_per_node > 0
    assert few.seconds_per_parameter > 0
    assert few.seconds_per_byte > 0
    # Of each layer at least what its linear maps read: two of the hidden size, one of the inner one, in float32.
    assert few.bytes_per_node > 2 * 4 * (64 + 64 + 128)
    spared = probe(model, "float32", False, TrainingSettings(gradient_checkpointing=True), False, forest)
    assert spared.bytes_per_node < few.bytes_per_node / 2
    adapted = probe(model, "float32", False, TrainingSettings(lora_rank=2), False, forest)
    assert (few.adapter, adapted.parameters) == (0, few.parameters)
    layers = linear_layers(Path(model), weight_shapes(Path(model)) or {})
    assert adapted.adapter == adapter_size(layers, TrainingSettings(lora_rank=2)) > 0


def page(shares: Any = MIXED, **sections: Any) -> list[str]:
    out = io.StringIO()
    result, config = seen(shares, **sections), a_config(**sections)
    made = predicted(result, config)
    findings = find(result, config, a_task(), made)
    show(Console(file=out, width=200), config, result, recommend(result, config), made, findings)
    return out.getvalue().splitlines()


def test_the_page_shows_what_was_seen_and_says_the_verdict_last() -> None:
    lines = page()
    text = "\n".join(lines)
    assert max(map(len, lines)) <= WIDTH
    assert lines[-1] == "This run could learn: 8 of 8 groups have signal."
    for part in ("hm, a", "malformed", "truncated", "256", "Recommended: sampling.num_generations 128", "optimizer",
                 "Memory: about"):  # fmt: skip
        assert part in text
    assert text.count("'hm, a'") == 8
    lines = page(shares={"the answer is": 0.6, "yes": 0.4})
    assert "\n".join(lines).rpartition("This run could not learn (format_never_met).")[1]


def test_hostile_completions_stay_on_their_line() -> None:
    hostile = "[bold]x[/bold]\x1b[2J\nnext " + "very " * 50
    lines = page(shares={hostile: 0.5, "a": 0.5})
    assert max(map(len, lines)) <= WIDTH
    assert not any("\x1b" in line for line in lines)
    assert any("[bold]x[/bold]" in line for line in lines)


def test_bad_input_is_refused_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_tiny_model(tmp_path / "model")
    path = tmp_path / "wide.yaml"
    path.write_text(
        f"model: {{path: {model}}}\ntask: {{name: comparison, size: 4}}\n"
        "sampling: {prompts_per_step: 8}\nrun: {max_steps: 3}\n"
    )
    assert main(["check", str(path)]) == 2
    assert "sampling.prompts_per_step: 8 is larger than the data set" in capsys.readouterr().err
    assert main(["check"]) == 2
