"""The loop's ports over stand-ins for Ray's handles."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import Config
from generation.engine import SampleRequest
from generation.groups import Group
from launch.errors import ProcessFailed, ProcessLost, RemoteError
from launch.processes import pool
from launch.processes.pool import Engines, Ranks, dealt
from launch.processes.restarts import Restarts
from launch.processes.watch import Watch
from tests.fakes import completion, prompt
from trainer.update.forest import Batch

CONFIG = Config.model_validate({"task": {"name": "comparison"}, "run": {"max_steps": 1}})


@dataclass
class World:
    """What happens to processes. lost: calls ("stream engine 1") that end their process, each once. failing: calls
    that raise, always. breaks: how often an engine is lost after its first two groups. told: restarts. heard: of
    every wait for samples, whether an interruption would end it."""

    lost: list[str] = field(default_factory=list)
    failing: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    heard: list[bool] = field(default_factory=list)
    started: int = 0
    breaks: int = 0

    def engines(self, number: int, ranks: Any = None, limit: int = 3) -> Engines:
        return Engines(number, self.start, CONFIG, ranks, FakeWatch(), Restarts(limit, self.told.append))

    def start(self, index: int) -> "Actor":
        self.started += 1
        return Actor(self, f"engine {index}")

    def come(
        self, calls: Mapping[str, Callable[[], Any]], phase: str, *_: Any, **how: Any
    ) -> Iterator[tuple[str, tuple[int, Group]]]:
        """In place of `come`; the last engine, and its last group, come first."""
        self.heard.append(not how["to_the_end"])
        for name in reversed(list(calls)):
            yield from ((name, part) for part in calls[name]())

    def wait(self, calls: Mapping[str, Callable[[], Any]], phase: str = "", *_: Any, **how: Any) -> dict[str, Any]:
        """In place of `wait`; the last engine answers first."""
        return {name: calls[name]() for name in reversed(list(calls))}


@dataclass
class Actor:
    """Stands for the handle of an engine's process. version: of its weights."""

    world: World
    name: str
    version: int = 0
    asked: list[list[str]] = field(default_factory=list)
    answers: int = 0

    def __getattr__(self, method: str) -> Any:
        def remote(*arguments: Any) -> Callable[[], Any]:
            version = self.version  # calls are answered in turn: what was asked before new weights has the old ones
            return lambda: self._answer(method, arguments, version)

        return type("Method", (), {"remote": staticmethod(remote)})

    def _answer(self, method: str, arguments: Sequence[Any], version: int) -> Any:
        call = f"{method} {self.name}"
        self.world.calls.append(call)
        if call in self.world.failing:
            raise ProcessFailed(f"While {method}: {self.name} failed.", self.name)
        if call in self.world.lost:
            self.world.lost.remove(call)
            raise ProcessLost(f"While {method}: {self.name} is lost.", self.name)
        if method != "stream":
            return None
        (requests,) = arguments
        self.asked.append([request.prompt.id for request in requests])
        if self.world.breaks:
            self.world.breaks -= 1
            return self._broken(requests, version)
        groups = [Group(request.prompt, (completion("a", 1),), 1.0, version) for request in requests]
        return reversed([*enumerate(groups)])

    def _broken(self, requests: Sequence[SampleRequest], version: int) -> Iterator[tuple[int, Group]]:
        """Two groups, which can be told from others, and no more."""
        for index, request in enumerate(requests[:2]):
            yield index, Group(request.prompt, (completion("a", 2),), 1.0, version)
        raise ProcessLost(f"While stream: {self.name} is lost.", self.name)


class FakeWatch(Watch):
    """Watches nothing; keeps who was ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: list[str] = []

    def end(self, name: str) -> None:
        self.ended.append(name)


class FakeRanks(Ranks):
    """Sends versions."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.sent: list[int] = []

    def send(self, engines: Mapping[str, Any], policy_version: int) -> None:
        self.world.wait({name: actor.load.remote() for name, actor in engines.items()})
        self.sent.append(policy_version)
        for actor in engines.values():
            actor.version = policy_version


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(pool, "wait", world.wait)
    monkeypatch.setattr(pool, "come", world.come)
    return world


def requests(number: int) -> list[SampleRequest]:
    return [SampleRequest(prompt(str(index)), 1, 1.0, seed=index) for index in range(number)]


@pytest.mark.parametrize(
    ("engines", "wanted", "shares"),
    [
        (1, 3, [[["0", "1", "2"]]]),
        (2, 5, [[["0", "2", "4"]], [["1", "3"]]]),
        (3, 6, [[["0", "3"]], [["1", "4"]], [["2", "5"]]]),
        (3, 2, [[["0"]], [["1"]], []]),  # who has nothing to do is not asked
    ],
)
def test_engines_have_turns_and_groups_come_in_order(
    world: World, engines: int, wanted: int, shares: list[list[list[str]]]
) -> None:
    together = world.engines(engines)
    groups = together.sample(requests(wanted))
    assert [group.prompt.id for group in groups] == [str(index) for index in range(wanted)]
    assert [actor.asked for actor in together.actors.values()] == shares


def test_a_lost_engine_is_replaced_gets_the_weights_and_samples_again(world: World) -> None:
    ranks = FakeRanks(world)
    together = world.engines(2, ranks)
    together.sync(5)
    world.lost = ["stream engine 1"]
    groups = together.sample(requests(4))
    assert [group.prompt.id for group in groups] == ["0", "1", "2", "3"]
    assert {group.policy_version for group in groups} == {5}
    assert (world.started, ranks.sent) == (3, [5, 5])
    assert together.actors["engine 1"].asked == [["1", "3"]]
    assert world.told == ["While stream: engine 1 is lost. Another engine 1 takes its place."]


def test_groups_are_told_in_order_as_soon_as_those_before_are_there(world: World) -> None:
    """The last engine, and its last group, come first."""
    told: list[str] = []

    def note(group: Group) -> None:
        told.append(group.prompt.id)
        assert (group.prompt.id == "3") == ("stream engine 0" in world.calls and len(told) == 4)

    together = world.engines(2, FakeRanks(world))
    together.on_group = note
    together.begin(requests(3))(1)
    assert told == []  # what is sampled ahead is scored in its step
    world.calls.clear()
    groups = together.sample(requests(4))
    assert told == [group.prompt.id for group in groups] == ["0", "1", "2", "3"]


def test_what_an_engine_answered_before_it_was_lost_stays(world: World) -> None:
    """It may be scored by now."""
    together = world.engines(1, FakeRanks(world))
    told: list[Group] = []
    together.on_group = told.append
    world.breaks = 1
    groups = together.sample(requests(3))
    assert [group.prompt.id for group in groups] == ["0", "1", "2"]
    assert world.started == 2
    assert all(one is other for one, other in zip(told, groups, strict=True))
    assert [group.completions[0].count for group in groups] == [2, 2, 1]  # see `Actor`


@pytest.mark.parametrize(
    ("costs", "engines", "shares"),
    [
        ([0, 0, 0, 0, 0], 2, [[0, 2, 4], [1, 3]]),
        ([7, 7, 7, 7], 3, [[0, 3], [1], [2]]),
        ([1, 2, 9, 4, 3], 2, [[2, 0], [3, 4, 1]]),
        ([10, 0, 30, 0], 2, [[2, 0], [1, 3]]),  # what is not known counts as 20
        ([5], 3, [[0], [], []]),
    ],
)
def test_the_dearest_first_to_who_has_least_to_do(costs: list[int], engines: int, shares: list[list[int]]) -> None:
    assert dealt(costs, engines) == shares


@given(st.lists(st.integers(0, 1000), max_size=40), st.integers(1, 9))
def test_all_is_dealt_once_and_nearly_evenly(costs: list[int], engines: int) -> None:
    shares = dealt(costs, engines)
    assert sorted(place for share in shares for place in share) == [*range(len(costs))]
    known = [cost for cost in costs if cost] or [1]
    expected = [cost or sum(known) / len(known) for cost in costs]
    loads = [sum(expected[place] for place in share) for share in shares]
    least = max([*expected, 0, sum(expected) / engines])  # nobody could be done before
    assert max(loads) - min(loads) <= max([*expected, 0]) + 1e-6
    assert max(loads) <= 2 * least + 1e-6


def test_what_was_begun_is_collected_without_hearing_an_interruption(world: World) -> None:
    together = world.engines(2, FakeRanks(world))
    together.sync(5)
    collect = together.begin(requests(4))
    assert world.heard == []  # nobody waits
    groups = collect(6)
    assert [group.prompt.id for group in groups] == ["0", "1", "2", "3"]
    assert [actor.asked for actor in together.actors.values()] == [[["0", "2"]], [["1", "3"]]]
    assert {group.policy_version for group in groups} == {5}
    assert world.heard == [False]
    together.sample(requests(1))
    assert world.heard == [False, True]


def test_what_an_engine_lost_ahead_is_sampled_by_the_weights_that_there_are(world: World) -> None:
    """The ranks hold version 6 by then; the others' groups stay what they are."""
    ranks = FakeRanks(world)
    together = world.engines(2, ranks)
    together.sync(5)
    collect = together.begin(requests(4))
    world.lost = ["stream engine 1"]
    groups = collect(6)
    assert [(group.prompt.id, group.policy_version) for group in groups] == [("0", 5), ("1", 6), ("2", 5), ("3", 6)]
    assert ranks.sent == [5, 6]
    together.sync(6)
    assert ranks.sent == [5, 6]


def test_engines_sleep_while_ranks_update_and_wake_for_the_next_weights(world: World) -> None:
    ranks = FakeRanks(world)
    together = world.engines(2, ranks)
    together.sync(5)
    world.calls.clear()
    together.sleep()
    assert sorted(world.calls) == ["sleep engine 0", "sleep engine 1"]
    world.calls.clear()
    together.sync(6)
    assert [call.split()[0] for call in world.calls] == ["ready"] * 2 + ["wake_up"] * 2 + ["load"] * 2 + [
        "wake_up"
    ] * 2
    world.calls.clear()
    together.sync(7)  # no update of the ranks' came with sleep
    assert [call.split()[0] for call in world.calls] == ["load"] * 2


def test_an_engine_lost_as_it_falls_asleep_or_wakes(world: World) -> None:
    ranks = FakeRanks(world)
    together = world.engines(2, ranks)
    together.sync(5)
    world.lost = ["sleep engine 1"]
    together.sleep()
    assert world.started == 3 and world.calls[-2:] == ["sleep engine 1", "sleep engine 0"]
    world.lost = ["wake_up engine 0"]
    together.sync(6)
    assert (world.started, ranks.sent) == (4, [5, 6])
    assert {group.policy_version for group in together.sample(requests(4))} == {6}


def test_ranks_ask_for_the_memory_before_they_update(world: World) -> None:
    told: list[str] = []

    def sleep() -> None:
        told.append(f"{len(world.calls)} calls")

    ranks = Ranks({"rank 0": Actor(world, "rank 0")}, CONFIG, "float32", "ipc", FakeWatch())
    ranks.before_update = sleep
    with pytest.raises(AttributeError):  # the stand-in has no report
        ranks.update(Batch(((),), 1, 1, 0, 0))
    assert told == ["0 calls"] and world.calls == ["update rank 0"]


def test_an_engine_lost_while_weights_are_sent(world: World) -> None:
    ranks = FakeRanks(world)
    together = world.engines(2, ranks)
    world.lost = ["load engine 0", "ready engine 0", "load engine 1"]
    together.sync(1)
    together.sync(1)
    assert ranks.sent == [1]
    assert world.started == 5
    assert {actor.version for actor in together.actors.values()} == {1}


def test_weights_that_all_engines_have_are_not_sent(world: World) -> None:
    ranks = FakeRanks(world)
    together = world.engines(2, ranks)
    for version in (0, 1, 1, 1, 2):
        together.sync(version)
    assert ranks.sent == [1, 2]
    together.sync(1)  # the run goes on from an earlier state
    assert ranks.sent == [1, 2, 1]


def test_too_many_losses_are_told_one_by_one(world: World) -> None:
    together = world.engines(1, limit=2)
    world.lost = ["stream engine 0"] * 3
    with pytest.raises(RemoteError, match=r"run.max_restarts allows 2 restarts in an hour, and there were:\n  While"):
        together.sample(requests(1))
    assert world.started == 3


def test_what_fails_twice_in_the_same_way_would_fail_again(world: World) -> None:
    together = world.engines(1)
    world.failing = ["stream engine 0"]
    with pytest.raises(ProcessFailed, match="engine 0 failed"):
        together.sample(requests(1))
    assert world.started == 2


def test_a_lost_rank_is_not_the_engines_matter(world: World) -> None:
    class LostRanks(FakeRanks):
        def send(self, engines: Mapping[str, Any], policy_version: int) -> None:
            raise ProcessLost("rank 0 is lost", "rank 0")

    together = world.engines(2, LostRanks(world))
    with pytest.raises(ProcessLost, match="rank 0 is lost"):
        together.sync(1)
    assert (world.started, world.told) == (2, [])


@pytest.mark.parametrize(
    ("backend", "ranks", "named"),
    [("nccl", 1, "rank 0"), ("ipc", 2, "rank 0"), ("ipc", 1, "engine 1"), ("shared_memory", 2, "engine 1")],
)
def test_ranks_that_wait_for_a_failed_engine_in_a_collective_start_again(
    world: World, monkeypatch: pytest.MonkeyPatch, backend: str, ranks: int, named: str
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise ProcessFailed("While syncing: engine 1 failed.", "engine 1")

    monkeypatch.setattr(pool, "wait", fail)
    actors = {f"rank {index}": Actor(world, f"rank {index}") for index in range(ranks)}
    with pytest.raises(ProcessFailed, match="engine 1 failed") as error:
        Ranks(actors, CONFIG, "float32", backend, FakeWatch()).send({"engine 1": Actor(world, "engine 1")}, 1)
    assert error.value.name == named
