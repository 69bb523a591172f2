"""Heartbeats: who counts as lost, and when."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import ray

from launch.errors import ClusterLost, ProcessLost
from launch.processes import heartbeat, own_ray
from launch.processes.heartbeat import Beat
from launch.processes.watch import SILENT, SILENT_AT_START, WITHOUT_RAY, Watch
from trainer.ports import Interrupted


@dataclass
class Actor:
    """A handle. alive: whether its heart beats."""

    key: str
    alive: bool = True


@dataclass
class World:
    """A clock, and Ray's store. deaf: whether the store does not answer."""

    now: float = 0.0
    actors: list[Actor] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)
    deaf: bool = False

    def latest(self, actors: Any, timeout: float) -> dict[str, Beat]:
        if self.deaf:
            raise ray.exceptions.RpcError("no answer")
        return {
            actor.key: Beat("node", 4711, self.numbers[actor.key]) for actor in actors if actor.key in self.numbers
        }

    def seconds(self, watching: Watch, number: float) -> None:
        """So many, with a look in each."""
        for _ in range(int(number)):
            self.now += 1
            for actor in self.actors:
                if actor.alive:
                    self.numbers[actor.key] = self.numbers.get(actor.key, -1) + 1
            watching.look("sampling")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(heartbeat, "latest", world.latest)
    monkeypatch.setattr(heartbeat, "key_of", lambda actor: actor.key)
    monkeypatch.setattr(own_ray, "lost", lambda: None)
    return world


def watched(world: World, *names: str) -> Watch:
    watching = Watch(clock=lambda: world.now)
    for name in names:
        world.actors.append(Actor(name))
        watching.add(name, world.actors[-1])
        watching.ready(name)
    return watching


def test_one_that_falls_silent_is_lost_within_ten_seconds(world: World) -> None:
    watching = watched(world, "engine 0", "rank 0")
    world.seconds(watching, 100)
    world.actors[1].alive = False
    with pytest.raises(
        ProcessLost, match=r"While sampling: rank 0 \(process 4711\) has not answered for 9 seconds"
    ) as lost:
        world.seconds(watching, 100)
    assert lost.value.name == "rank 0"
    assert world.now == 100 + SILENT + 1


def test_no_engine_is_missed_while_ranks_update(world: World) -> None:
    watching = watched(world, "engine 0", "rank 0")
    world.seconds(watching, 3)
    world.actors[0].alive = False
    for _ in range(20):
        world.now += 1
        world.numbers["rank 0"] += 1
        watching.look("updating", ranks_only=True)
    world.now += 1
    with pytest.raises(ProcessLost, match="While sampling: engine 0"):
        watching.look("sampling")


def test_starting_takes_longer(world: World) -> None:
    watching = watched(world, "engine 0")
    other = Actor("engine 1")
    world.actors.append(other)
    watching.add("engine 1", other)
    world.seconds(watching, 5)
    other.alive = False
    world.seconds(watching, SILENT_AT_START)
    with pytest.raises(ProcessLost, match="engine 1"):
        world.seconds(watching, 2)


def test_one_without_a_process_yet_is_not_judged(world: World) -> None:
    watching = watched(world)
    watching.add("engine 0", Actor("engine 0"))
    world.seconds(watching, 500)


def test_one_that_takes_the_place_of_another_begins_anew(world: World) -> None:
    watching = watched(world, "engine 0")
    world.seconds(watching, 10)
    world.actors[0].alive = False
    world.seconds(watching, SILENT)
    new = Actor("engine 0 again")
    world.actors.append(new)
    watching.add("engine 0", new)
    watching.ready("engine 0")
    world.seconds(watching, 50)


def test_what_nobody_looked_at_is_no_silence(world: World) -> None:
    """The driver was stopped, or busy, while the others were as well or were not."""
    watching = watched(world, "engine 0")
    world.seconds(watching, 3)
    world.now += 1000
    watching.look("updating")
    world.now += 1
    watching.look("updating")


def test_a_store_that_does_not_answer(world: World) -> None:
    watching = watched(world, "engine 0")
    world.seconds(watching, 3)
    world.deaf = True
    world.seconds(watching, WITHOUT_RAY - 5)
    world.deaf = False
    world.seconds(watching, 3)
    world.deaf = True
    with pytest.raises(ClusterLost, match="did not answer for 30 seconds"):
        world.seconds(watching, WITHOUT_RAY + 5)


def test_rays_own_processes_are_looked_after(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_ray, "lost", lambda: "process raylet has ended")
    watching = watched(world)
    world.now += 1
    with pytest.raises(ClusterLost, match="While updating: Ray's process raylet has ended"):
        watching.look("updating")


def test_the_run_may_be_interrupted_where_nothing_has_changed(world: World) -> None:
    watching = Watch(lambda: True, lambda: world.now)
    watching.look("updating", ranks_only=True)
    watching.look("sampling", to_the_end=True)
    with pytest.raises(Interrupted):
        watching.look("sampling")


def test_what_is_waited_for_to_the_end_may_be_lost(world: World) -> None:
    watching = watched(world, "engine 0")
    world.seconds(watching, 3)
    world.actors[0].alive = False
    for _ in range(int(SILENT)):
        world.now += 1
        watching.look("sampling", to_the_end=True)
    world.now += 1
    with pytest.raises(ProcessLost, match="While sampling: engine 0"):
        watching.look("sampling", to_the_end=True)


def test_one_that_is_seen_to_be_stopped_is_lost_as_soon_while_it_starts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    watching = watched(world)
    world.actors.append(Actor("engine 0"))
    watching.add("engine 0", world.actors[0])
    world.seconds(watching, 2)
    world.actors[0].alive = False
    monkeypatch.setattr(own_ray, "stopped_workers", lambda: {4711})
    with pytest.raises(ProcessLost, match=r"engine 0 \(process 4711\) has not answered for 9 seconds"):
        world.seconds(watching, SILENT + 2)
