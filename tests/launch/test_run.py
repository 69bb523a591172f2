"""What a run is told by, and what it is made of; whole runs are in tests/end_to_end."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from generation.groups import EXAMPLE_GROUP, Group
from launch import run
from launch.logger.display import Display
from launch.logger.run_folder import RunFolder
from launch.processes import start
from launch.run import TrainingRun, exit_status
from rewards.errors import RewardLost
from tests.launch.samples import config, result
from tests.launch.test_resume import prepared
from trainer import loop
from trainer.ending import Stop, Target
from trainer.ports import Ports


@pytest.mark.parametrize(
    ("stop", "target", "status"),
    [
        (Stop.TARGET, Target.REACHED, 0),
        (Stop.MAX_STEPS, Target.NONE, 0),
        (Stop.MAX_STEPS, Target.REACHED, 0),
        (Stop.MAX_STEPS, Target.MISSED, 4),
        (Stop.MAX_SECONDS, Target.MISSED, 4),
        (Stop.CANNOT_LEARN, Target.MISSED, 3),
        (Stop.CANNOT_LEARN, Target.NONE, 3),
    ],
)
def test_the_exit_status_follows_from_why_the_run_stopped(stop: Stop, target: Target, status: int) -> None:
    assert exit_status(replace(result(), stop=stop, target=target)) == status


def test_the_scorer_gets_a_group_while_others_are_sampled_and_may_lose_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What engines tell of a group that is complete begins its scoring; what is lost there counts as a restart."""
    begun: list[Group] = []

    class Scorer:
        def __init__(self, task: Any, workers: int, lost: Callable[[RewardLost], None]) -> None:
            self.lost = lost

        def begin(self, group: Group) -> None:
            begun.append(group)

        def close(self) -> None: ...

    @contextmanager
    def processes(*_: Any) -> Iterator[Any]:
        yield SimpleNamespace(on_group=None), SimpleNamespace(dtype="float32")

    def train(_: Any, ports: Ports, *__: Any, **___: Callable[..., Any]) -> Any:
        engines: Any = ports.generator
        engines.on_group(EXAMPLE_GROUP)
        scorer: Any = ports.scorer
        scorer.lost(RewardLost("its process ended."))
        return result()

    monkeypatch.setattr(run, "TaskScorer", Scorer)
    monkeypatch.setattr(run, "connected", nullcontext)
    monkeypatch.setattr(start, "processes", processes)
    monkeypatch.setattr(loop, "train", train)
    (tmp_path / "model").mkdir()
    settings = config(run={"directory": str(tmp_path), "save_model": False}, tracking={"tensorboard": False})
    folder = RunFolder.create(settings)
    with Display(settings) as display:
        TrainingRun(prepared(tmp_path / "model", settings), folder, display).run(None)
    assert begun == [EXAMPLE_GROUP]
    (restart,) = json.loads((folder.path / "summary.json").read_text())["restarts"]
    assert restart["text"] == "its process ended."
    assert "its process ended. It is asked once more, in another process." in capsys.readouterr().out
