"""When checkpoints are written, and what becomes of failures."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from configs.schema import Config
from launch import checkpoint
from launch.checkpoint import Record
from launch.errors import ProcessFailed, ProcessLost, RemoteError
from launch.keeper import Keeper
from launch.logger.run_folder import RunFolder
from launch.processes.pool import Ranks
from tests.launch.test_checkpoint import saved
from tests.trainer.test_state import begun, run
from trainer.state import RunState

RUN = run()


@dataclass
class FakeRanks(Ranks):
    """Save what ranks save, unless that fails."""

    fails: Callable[[], None] = lambda: None
    versions: list[int] = field(default_factory=list)

    def save(self, folder: str, policy_version: int) -> None:
        self.versions.append(policy_version)
        saved(folder)
        self.fails()


@dataclass
class Setting:
    """A keeper and all that it works with."""

    folder: RunFolder
    ranks: FakeRanks
    told: list[str]
    now: float = 0.0
    hurry: bool = False

    def keeper(self, **limits: Any) -> Keeper:
        config = Config.model_validate({"task": {"name": "comparison"}, "run": {"max_steps": 100, **limits}})

        def belongs(state: RunState) -> Record:
            fresh = state.latest.policy_version == state.policy_version
            return Record(state, state.latest.reward_sampled if fresh else None, "{}", {}, self.folder.sizes, ())

        return Keeper(
            config, self.folder, self.ranks, belongs, None, self.told.append, lambda: self.hurry, lambda: self.now
        )

    @property
    def steps(self) -> list[int]:
        return [int(path.name[5:]) for path in checkpoint.paths(self.folder.checkpoints_path)]


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(RunFolder(tmp_path), FakeRanks(), [])


def at(step: int, reward: float | None = None) -> RunState:
    """reward: by an evaluation of just that policy."""
    state = replace(begun(RUN), step=step, policy_version=step + 1)
    if reward is None:
        return state
    latest = replace(state.latest, policy_version=step + 1, reward_sampled=reward)
    return replace(state, latest=latest)


def test_after_so_many_seconds_or_steps(setting: Setting) -> None:
    keeper = setting.keeper(checkpoint_seconds=100, keep_checkpoints=9)
    for step in range(1, 8):
        setting.now += 40
        keeper.between_steps(at(step))
    assert setting.steps == [3, 6]
    assert setting.ranks.versions == [4, 7]
    by_steps = setting.keeper(checkpoint_seconds=None, checkpoint_steps=10, keep_checkpoints=9)
    for step in range(7, 30):
        by_steps.between_steps(at(step))
    assert setting.steps == [3, 6, 10, 20]


def test_a_better_evaluation_is_kept_at_once_but_not_all_the_time(setting: Setting) -> None:
    keeper = setting.keeper(checkpoint_seconds=None, keep_checkpoints=1)
    for step, reward, now in (
        (1, 0.5, 100),
        (2, 0.9, 130),
        (3, 0.8, 170),
        (4, 0.6, 300),
        (5, 0.7, 400),
        (6, 0.1, 900),
    ):
        setting.now = now
        keeper.between_steps(at(step, reward))
    assert setting.steps == [3]
    keeper.at_end(at(7))
    assert setting.steps == [3, 7]


def test_the_lines_that_it_counts_on_are_on_the_disk_before_it(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink()))
    lines = [setting.folder.path / name for name in ("groups.jsonl", "metrics.jsonl")]
    for path in lines:
        path.write_text("{}\n")
    setting.keeper(checkpoint_steps=1).between_steps(at(1))
    assert synced[:2] == lines
    assert setting.steps == [1]


def test_one_that_fails_is_told_and_tried_again(setting: Setting) -> None:
    keeper = setting.keeper(checkpoint_seconds=100)

    def full() -> None:
        raise ProcessFailed("While saving: rank 0 failed.\nTraceback ...\nOSError: No space left on device", "rank 0")

    setting.ranks.fails = full
    setting.now = 100
    keeper.between_steps(at(1))
    assert setting.steps == []
    assert setting.told == [
        "No checkpoint could be written at step 1: OSError: No space left on device. It is tried again."
    ]
    setting.ranks.fails = lambda: None
    setting.now = 130
    keeper.between_steps(at(2))
    assert setting.steps == []
    setting.now = 161
    keeper.between_steps(at(3))
    assert setting.steps == [3]


def test_a_lost_rank_is_the_runs_matter(setting: Setting) -> None:
    keeper = setting.keeper(checkpoint_steps=1)

    def lost() -> None:
        raise ProcessLost("While saving: rank 1 is lost.", "rank 1")

    setting.ranks.fails = lost
    with pytest.raises(ProcessLost):
        keeper.between_steps(at(1))
    keeper.at_end(at(1))
    assert (setting.steps, setting.told) == ([], [])


def test_the_last_one_is_written_once_and_not_in_a_hurry(setting: Setting) -> None:
    keeper = setting.keeper(checkpoint_steps=1)
    keeper.between_steps(at(1))
    keeper.at_end(at(1))
    assert setting.ranks.versions == [2]
    setting.hurry = True
    keeper.at_end(at(2))
    assert setting.steps == [1]
    setting.hurry = False
    keeper.at_end(at(2))
    assert setting.steps == [1, 2]
    assert keeper.has(2)


def test_the_last_one_is_tried_again_for_a_minute(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a disk that is full when a run ends costs no step, if somebody makes room; and hides nothing if not."""
    keeper = setting.keeper(checkpoint_steps=1)
    keeper.between_steps(at(1))
    room = 30.0

    def full() -> None:
        if setting.now < room:
            raise OSError(28, "No space left on device")

    def sleep(seconds: float) -> None:
        setting.now += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    setting.ranks.fails = full
    problem = "The last checkpoint could not be written: [Errno 28] No space left on device."
    again = f"{problem} It is tried again for 60 seconds."
    keeper.at_end(at(2))
    assert (setting.steps, setting.now, setting.told) == ([1, 2], 30.0, [again])
    room = 1000.0
    keeper.at_end(at(3))
    assert (setting.steps, setting.now) == ([1, 2], 90.0)
    assert setting.told[1:] == [again, f"{problem} Of earlier ones the one at step 2 remains."]


def test_what_would_fail_again_is_not_tried_again(setting: Setting) -> None:
    """Ranks that hold other weights than the state is of, as after a step that was broken off."""

    def other() -> None:
        raise RemoteError("Rank 0 holds weights policy version 108, and version 107 was to be saved.")

    setting.ranks.fails = other
    setting.keeper().at_end(at(2))
    (said,) = setting.told
    assert said.endswith("and version 107 was to be saved. Of earlier ones there is none.")


def test_a_second_signal_ends_the_attempts_at_the_last_one(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    def sleep(seconds: float) -> None:
        setting.hurry = True

    monkeypatch.setattr(time, "sleep", sleep)
    setting.ranks.fails = full
    setting.keeper().at_end(at(2))
    assert len(setting.told) == 1
