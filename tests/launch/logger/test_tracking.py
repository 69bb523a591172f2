import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from configs.errors import ConfigError
from launch.logger import tracking
from launch.logger.run_folder import RunFolder
from tests.launch import samples


def of_step(step: int, **values: float) -> tuple[int, Mapping[str, float]]:
    named = samples.metrics(step, **values).named
    del named["step"]
    return step, named


def test_tensorboard_has_every_metric_of_every_step(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = samples.config(run={"directory": str(tmp_path)})
    folder = RunFolder.create(config)
    (tracker,) = tracking.trackers(config, folder)
    for step in (1, 2, 3):
        tracker.log(*of_step(step))

    read = EventAccumulator(str(folder.tensorboard_path)).Reload()
    expected = set(samples.metrics().named) - {"step"}
    assert set(read.Tags()["scalars"]) == expected
    events = read.Scalars("reward_mean")
    assert [event.step for event in events] == [1, 2, 3]
    assert [event.value for event in events] == pytest.approx([-0.08, 0.04, 0.16])
    tracker.close()


def test_tensorboard_forgets_steps_after_the_one_that_a_run_goes_on_from(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = tracking.TensorBoardTracker(tmp_path)
    for step in (1, 2, 3):
        first.log(*of_step(step, loss=0.0))
    second = tracking.TensorBoardTracker(tmp_path, step=1)
    read = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in read.Scalars("loss")] == [1]
    second.log(*of_step(2, loss=1.0))
    events = read.Reload().Scalars("loss")
    assert [(event.step, event.value) for event in events] == [(1, 0.0), (2, 1.0)]
    second.close()
    first.close()


def test_tensorboard_that_cannot_write_is_refused(tmp_path: Path) -> None:
    config = samples.config(run={"directory": str(tmp_path)})
    folder = RunFolder.create(config)
    folder.tensorboard_path.write_text("a file in its place")
    with pytest.raises(ConfigError, match=r"tracking\.tensorboard: .* set tracking\.tensorboard: false"):
        tracking.trackers(config, folder)


def test_tensorboard_writes_without_torch_and_without_noise(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from launch.logger.tracking import TensorBoardTracker; "
        "tracker = TensorBoardTracker(Path(sys.argv[1])); tracker.log(1, {'loss': 0.5}); tracker.close(); "
        "print(*{'torch', 'tensorflow', 'wandb'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_nothing_is_tracked_unless_asked(tmp_path: Path) -> None:
    config = samples.config(run={"directory": str(tmp_path)}, tracking={"tensorboard": False})
    folder = RunFolder.create(config)
    assert tracking.trackers(config, folder) == ()
    assert [path.name for path in folder.path.iterdir()] == ["config.yaml"]


def test_wandb_offline_keeps_its_files_in_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    config = samples.config(run={"directory": str(tmp_path)}, tracking={"wandb": "offline"})
    tracking.refuse_missing_wandb(config)
    folder = RunFolder.create(config)
    opened = tracking.trackers(config, folder)
    assert len(opened) == 2
    for tracker in opened:
        tracker.log(*of_step(1))
        tracker.close()
    (written,) = folder.path.glob("wandb/offline-run-*/*.wandb")
    assert b"seconds_publish" in written.read_bytes()

    known = (folder.path / "wandb" / "run-id").read_text()
    assert written.name == f"run-{known}.wandb"
    again = tracking.WandbTracker(config, folder)
    again.close()
    assert {path.name for path in folder.path.glob("wandb/offline-run-*/*.wandb")} == {written.name}


@pytest.mark.parametrize("leftover", [False, True])
def test_wandb_that_is_not_installed_is_refused_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leftover: bool
) -> None:
    """leftover: W&B left its folder `wandb` in the working directory, which Python would import."""
    if leftover:
        (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "modules", {k: v for k, v in sys.modules.items() if k != "wandb"})
    config = samples.config(tracking={"wandb": "online"})
    with pytest.raises(ConfigError, match=r"tracking\.wandb: online needs the package wandb.*pip install"):
        tracking.refuse_missing_wandb(config)
    tracking.refuse_missing_wandb(samples.config())
