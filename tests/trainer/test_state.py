"""The state of a run: to JSON and back, it is the same run."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, TypeVar

import numpy as np
import pytest
import typing_extensions
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.derived import derived
from configs.schema import Config
from generation.engine import SampleRequest
from generation.groups import Completion, Group
from rewards.prompts import Verdict
from tests.fakes import FakeLogger, SamplesAtOnce, prompt
from trainer import jsonable
from trainer.diagnosis.history import EXAMPLE_SEEN
from trainer.diagnosis.trial import Trial
from trainer.evaluate import evaluate
from trainer.happened import Happened
from trainer.jsonable import NotThisRecord, from_json, to_json
from trainer.ports import Ports
from trainer.run import Run
from trainer.scored import ScoredGroup
from trainer.state import SCHEMA, RunState
from trainer.step import collected, judged, logged, step
from trainer.update.forest import Batch
from trainer.update.report import NO_UPDATE, RankReport

PROMPTS = tuple(prompt(f"p{number}") for number in range(5))
MOODS = ("collapsed", "floor", "narrow", "mixed", "near misses", "right", "cut off", "malformed")


def run(ahead: int = 0, **signal: Any) -> Run:
    config = Config.model_validate(
        {
            "task": {"name": "comparison"},
            "sampling": {"prompts_per_step": 3, "num_generations": 8, "max_completion_length": 4, "ahead": ahead},
            "signal": signal,
            "run": {"max_steps": 100, "target_reward": 0.9},
        }
    )
    return Run(derived(config, gpus=0), PROMPTS, best_reward=1.0, dtype="float32")


@dataclass
class Moody(SamplesAtOnce):
    """Engines, reward function and ranks whose answers depend on the mood and the request alone."""

    mood: str = "mixed"
    version: int = 0

    def sample(self, requests: Sequence[SampleRequest]) -> tuple[Group, ...]:
        return tuple(self._group(request) for request in requests)

    def _group(self, request: SampleRequest) -> Group:
        rng, n = np.random.default_rng(request.seed), request.num_generations
        texts = {
            "collapsed": ["no"],
            "floor": [f"w{number}" for number in range(9)],
            "narrow": ["no", "nope"],
            "mixed": ["no", "yes", "w1", "w2"],
            "near misses": ["near", "no"],
            "right": ["yes"],
            "cut off": ["well,", "let me"],
            "malformed": ["?", "hm"],
        }[self.mood]
        counts = rng.multinomial(n, rng.dirichlet(np.ones(len(texts))))
        completions = [
            Completion(
                np.array([len(text), ord(text[0]), index + 3, 2], np.int32),
                text,
                np.log(rng.random(4)).astype(np.float32),
                "length" if self.mood == "cut off" else "stop",
                int(number),
            )
            for index, (text, number) in enumerate(zip(texts, counts, strict=True))
            if number
        ]
        completions.sort(key=lambda completion: -completion.count)
        return Group(request.prompt, tuple(completions), request.temperature, self.version)

    def score(self, groups: Sequence[Group]) -> tuple[ScoredGroup, ...]:
        verdicts = {
            "yes": Verdict(1.0, "correct"),
            "near": Verdict(-0.1, "wrong"),
            "well,": Verdict(-1.0, "truncated"),
            "let me": Verdict(-1.0, "truncated"),
            "?": Verdict(-1.0, "malformed"),
            "hm": Verdict(-1.0, "malformed"),
        }
        wrong = Verdict(-0.5, "wrong")
        return tuple(ScoredGroup(g, tuple(verdicts.get(c.text, wrong) for c in g.completions)) for g in groups)

    def update(self, batch: Batch) -> RankReport:
        size = float(batch.tree_tokens)
        return replace(NO_UPDATE, loss=1 / size, kl=0.1, logprob_gap=size / 1e4, grad_norm=size, learning_rate=1e-5)

    def sync(self, policy_version: int) -> None:
        self.version = policy_version


def steps(of: Run, state: RunState, moods: Sequence[str], start: int) -> tuple[RunState, list[Happened], list[Any]]:
    """The run's next steps, with one mood each; also what the logger got."""
    world, logger = Moody(version=state.policy_version), FakeLogger()
    ports, ticks, happened = Ports(world, world, world, world, logger), count(start), []
    for mood in moods:
        world.mood = mood
        what, begun = step(of, state, ports, lambda: float(next(ticks)))
        state, what = collected(state.after(of, what), what, begun, lambda: float(next(ticks)))
        state = judged(of, logged(of, state, what, ports), ports)
        happened.append(what)
    return state, happened, [logger.steps, logger.alarms, logger.phases]


def begun(of: Run) -> RunState:
    world = Moody()
    return RunState.start(of, evaluate(of, of.evaluated, world, world, "before training"))


MODES = st.sampled_from(
    [{}, {"ahead": 1}, {"without_best": "train"}, {"rescue": False}, {"stop_without_signal": False}]
)


@settings(max_examples=60)
@given(st.lists(st.sampled_from(MOODS), max_size=14), st.lists(st.sampled_from(MOODS), min_size=1, max_size=4), MODES)
def test_the_next_steps_are_the_same_after_json(before: list[str], after: list[str], signal: dict[str, Any]) -> None:
    of = run(**signal)
    state, _, _ = steps(of, begun(of), before, start=0)
    restored = RunState.from_json(json.loads(json.dumps(state.to_json(), allow_nan=False)))
    assert restored.to_json() == state.to_json()
    one, happened, logged = steps(of, state, after, start=1000)
    other, happened_again, logged_again = steps(of, restored, after, start=1000)
    assert other.to_json() == one.to_json()
    assert to_json(tuple(happened_again)) == to_json(tuple(happened))
    assert logged_again == logged


@settings(max_examples=30)
@given(st.lists(st.sampled_from(MOODS), min_size=1, max_size=6))
def test_a_step_leaves_the_state_before_it_as_it_was(moods: list[str]) -> None:
    of = run()
    state, _, _ = steps(of, begun(of), moods[:-1], start=0)
    kept = json.dumps(state.to_json())
    steps(of, state, moods[-1:], start=1000)
    assert json.dumps(state.to_json()) == kept


def test_everything_that_a_run_learns_is_in_the_json() -> None:
    of = run(stop_without_signal=False)
    state, _, _ = steps(of, begun(of), ["right", "right", *["collapsed"] * 9, "mixed"], start=0)
    written = state.to_json()
    assert written["schema"] == SCHEMA
    assert written["memory"]["answers"] and written["drift"]["first"] and written["exhibits"]
    assert state.curriculum.rungs.any() and state.curriculum.misses.any() and state.alarms


def test_a_state_of_another_schema_is_refused() -> None:
    state = begun(run()).to_json()
    with pytest.raises(NotThisRecord, match=f"schema: 99 is not known; it must be {SCHEMA}"):
        RunState.from_json(state | {"schema": 99})
    with pytest.raises(NotThisRecord, match="schema: None"):
        RunState.from_json([])
    with pytest.raises(NotThisRecord, match="RunState has the fields step"):
        RunState.from_json({"schema": SCHEMA})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("step", "7"),
        ("step", True),
        ("seconds", None),
        ("alarms", [{"name": "kl"}]),
        ("rewards", {"known": [], "first": [], "latest": []}),
        ("trial", 3),
    ],
)
def test_a_state_with_a_field_of_another_type_is_refused(field: str, value: Any) -> None:
    with pytest.raises(NotThisRecord, match=rf"\$\.{field}"):
        RunState.from_json(begun(run()).to_json() | {field: value})


def test_an_array_of_another_type_or_a_damaged_one_is_refused() -> None:
    state = begun(run()).to_json()
    known = state["rewards"]["known"]
    for damaged in (known | {"dtype": "<f8"}, known | {"zlib": "AAAA"}, known | {"shape": [99]}):
        with pytest.raises(NotThisRecord, match=r"\$\.rewards\.known"):
            RunState.from_json(state | {"rewards": state["rewards"] | {"known": damaged}})


def test_numbers_are_exact_in_json() -> None:
    seen = json.loads(json.dumps(to_json(EXAMPLE_SEEN)))
    assert from_json(type(EXAMPLE_SEEN), seen) == EXAMPLE_SEEN
    assert seen["reward_std"] == EXAMPLE_SEEN.reward_std


def test_one_trial_is_held_for_a_silence_and_another_for_the_next() -> None:
    of = run(rescue=False, stop_without_signal=False, without_best="skip")
    held: list[Trial | None] = [None]
    state = begun(of)
    for mood in ["floor"] * 7 + ["mixed"] * 2 + ["floor"] * 7:
        state, _, _ = steps(of, state, [mood], start=0)
        if state.trial is not held[-1]:
            held.append(state.trial)
    assert [one is None for one in held] == [True, False, True, False]


def test_what_is_remembered_holds_no_more_of_what_an_engine_sent() -> None:
    """Arrays from another process are views of all that it sent."""
    of, sent = run(), np.zeros(1000, np.int32)

    class Views(Moody):
        def _group(self, request: SampleRequest) -> Group:
            group = super()._group(request)
            views = []
            for completion in group.completions:
                view = sent[:4]
                view[:] = completion.token_ids
                views.append(replace(completion, token_ids=view, logprobs=sent[4:8].view(np.float32)))
            return replace(group, completions=tuple(views))

    world = Views("mixed")
    state = begun(of)
    happened, _ = step(of, state, Ports(world, world, world, world, FakeLogger()), lambda: 0.0)
    state = state.after(of, happened)
    kept = [
        *(answer.token_ids for answer in state.memory.answers.values()),
        *(array for one in state.exhibits for c in one.completions for array in (c.token_ids, c.logprobs)),
        *(
            array
            for first in state.drift.first.values()
            for one in first.beginnings
            for array in (one.token_ids, one.logprobs)
        ),
    ]
    assert len(kept) > 10
    assert not any(np.shares_memory(array, sent) for array in kept)


Scalar = TypeVar("Scalar", bound=np.generic)
OwnArray = typing_extensions.TypeAliasType(
    "OwnArray", np.ndarray[tuple[Any, ...], np.dtype[Scalar]], type_params=(Scalar,)
)
"""`NDArray` as NumPy has it from 2.5 on: an alias that hints keep."""


@dataclass(frozen=True)
class Arrays:
    numbers: OwnArray[np.int32]
    shares: OwnArray[np.float64] | None


@pytest.mark.parametrize("shares", [None, np.ones((2, 2))])
def test_arrays_are_read_by_the_hints_of_every_numpy(shares: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonable, "NDArray", OwnArray)
    written = json.loads(json.dumps(to_json(Arrays(np.arange(3, dtype=np.int32), shares))))
    read = from_json(Arrays, written)
    assert np.array_equal(read.numbers, [0, 1, 2])
    assert read.numbers.dtype == np.int32
    assert (read.shares is None) if shares is None else np.array_equal(np.asarray(read.shares), shares)
