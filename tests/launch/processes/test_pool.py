"""The loop's ports over stand-ins for Ray's handles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from generation.engine import SampleRequest
from generation.groups import Group
from launch.processes import pool
from launch.processes.pool import Engines
from tests.fakes import completion, prompt


@dataclass
class Engine:
    """Stands for the handle of an engine's process; keeps the ids of the prompts of each call."""

    calls: list[list[str]] = field(default_factory=list)

    @property
    def sample(self) -> Any:
        return type("Method", (), {"remote": staticmethod(self._sample)})

    def _sample(self, requests: Sequence[SampleRequest]) -> tuple[Group, ...]:
        self.calls.append([request.prompt.id for request in requests])
        return tuple(Group(request.prompt, (completion("a", 1),), 1.0, 0) for request in requests)


def at_once(calls: Mapping[str, Any], *limits: object) -> Mapping[str, Any]:
    """In place of `wait`; the last engine answers first."""
    return dict(reversed(list(calls.items())))


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
    monkeypatch: pytest.MonkeyPatch, engines: int, wanted: int, shares: list[list[list[str]]]
) -> None:
    monkeypatch.setattr(pool, "wait", at_once)
    actors = {f"engine {index}": Engine() for index in range(engines)}
    requests = [SampleRequest(prompt(str(index)), 1, 1.0, seed=index) for index in range(wanted)]
    groups = Engines(actors, timeout=1.0).sample(requests)
    assert [group.prompt.id for group in groups] == [str(index) for index in range(wanted)]
    assert [actor.calls for actor in actors.values()] == shares
