"""What `launch.api.train` makes of objects; a real run is in the notebook of the examples."""

import threading
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from configs.errors import ConfigError
from configs.schema import Config
from launch import api
from rewards import dataset
from rewards.errors import TaskError
from rewards.function import RewardFunction
from rewards.prompts import Prompt
from rewards.task import weighted

ROWS = [{"prompt": f"q{index}", "answer": str(index)} for index in range(3)]
CONFIG = Path(__file__).parents[2] / "configs" / "comparison.yaml"
SCALE = 0.5


def scaled(completions: list[str], answer: list[str], **kwargs: Any) -> list[float]:
    return [SCALE * (text == right) for text, right in zip(completions, answer, strict=True)]


class Constant:
    def __call__(self, completions: list[str], **kwargs: Any) -> list[float]:
        return [2.0] * len(completions)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The configurations that runs were asked for; they end at once."""
    configs: list[Config] = []

    def trained(config: Config) -> tuple[int, Path]:
        configs.append(config)
        folder = tmp_path / "runs" / "one"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.jsonl").write_text('{"step": 1, "reward_mean": 0.5}\n{"step": 2, "reward_mean": 1.0}\n')
        (folder / "summary.json").write_text('{"verdict": "Done."}')
        return 4, folder

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("launch.train.trained", trained)
    return configs


def test_a_file_with_settings_over_it_is_as_on_the_command_line(asked: list[Config]) -> None:
    result = api.train(CONFIG, run={"max_steps": 2}, seed=3)
    (config,) = asked
    assert (config.seed, config.run.max_steps, config.run.name, config.task.name) == (
        3,
        2,
        "comparison",
        "comparison",
    )
    assert config.training.learning_rate == 2e-5
    assert (result.status, result.summary, result.model) == (4, {"verdict": "Done."}, None)
    assert result.metrics["reward_mean"].tolist() == [0.5, 1.0]


@pytest.mark.parametrize("data", [ROWS, Dataset.from_list(ROWS)])
def test_data_and_functions_take_the_place_of_the_file_s_task(asked: list[Config], data: Any) -> None:
    api.train(CONFIG, task={"dataset": data, "eval_dataset": data, "reward": [(scaled, 0.25), Constant()]})
    (config,) = asked
    assert config.task.name is None and config.task.few_shot == 0
    assert config.task.dataset is not None and config.task.dataset == config.task.eval_dataset
    assert [row.columns["answer"] for row in dataset.read(config.task.dataset, "train")] == ["0", "1", "2"]
    assert [weighted(one)[1] for one in config.task.reward] == [0.25, 1.0]
    prompt = Prompt("p", (), {"answer": "7"}, (), "q")
    for spec, expected in zip(config.task.reward, [(0.5, 0.0), (2.0, 2.0)], strict=True):
        function = RewardFunction(weighted(spec)[0], timeout=30.0)
        assert function(prompt, ["7", "8"], [[1], [2]]).values == expected
        function.close()


def test_the_same_objects_have_the_same_files(asked: list[Config]) -> None:
    for _ in range(2):
        api.train(task={"dataset": ROWS, "reward": scaled}, run={"max_steps": 1})
    assert asked[0].task == asked[1].task and asked[0].run.name == "run"


def test_what_cannot_be_used_is_refused(asked: list[Config]) -> None:
    lock = threading.Lock()

    def locked(completions: list[str], **kwargs: Any) -> list[float]:
        with lock:
            return [0.0] * len(completions)

    run = {"max_steps": 1}
    with pytest.raises(TaskError, match=r"task\.reward: locked cannot be sent to the process that runs it"):
        api.train(task={"dataset": ROWS, "reward": locked}, run=run)
    with pytest.raises(TaskError, match=r"task\.reward: a int is not allowed"):
        api.train(task={"dataset": ROWS, "reward": 3}, run=run)
    with pytest.raises(TaskError, match=r"task\.dataset: a DatasetDict is not allowed"):
        api.train(task={"dataset": DatasetDict(train=Dataset.from_list(ROWS)), "reward": scaled}, run=run)
    with pytest.raises(ConfigError, match=r"sampling\.temperature: 0 is not allowed"):
        api.train(CONFIG, sampling={"temperature": 0})
    assert not asked
