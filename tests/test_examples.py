"""The examples load, and their rewards tell right from wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from configs.loading import load
from rewards.function import RewardFunction
from rewards.prompts import Prompt
from rewards.task import weighted

ROOT = Path(__file__).parents[1]
OWN = sorted(path for path in (ROOT / "examples").glob("*.yaml") if not path.name.startswith("gym_"))


def right(row: dict[str, Any]) -> str:
    if "keys" in row:
        return json.dumps(dict.fromkeys(row["keys"], 1))
    if "solution" in row:
        return f"```python\n{row['solution']}\n```"
    return str(row["answer"]).rpartition("#### ")[2]


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_example_loads(path: Path) -> None:
    assert load(path).run.target_reward == 0.995


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.stem)
def test_its_reward_is_1_for_the_answer_and_0_else(path: Path) -> None:
    if path.stem == "math_verify":
        pytest.importorskip("math_verify")
    task = load(path).task
    assert task.dataset is not None
    (spec,) = task.reward
    function = RewardFunction(f"{ROOT}/{weighted(spec)[0]}", timeout=30.0)
    rows = [json.loads(line) for line in (ROOT / task.dataset).read_text().splitlines()]
    assert 14 <= len(rows) <= 20
    for row in rows:
        asked = row[task.columns.get("prompt", "prompt")]
        text = asked if isinstance(asked, str) else None
        prompt = Prompt("one", (), {key: value for key, value in row.items() if key != "prompt"}, (), text)
        texts = [right(row), f" {right(row)}\n", "I do not know", ""]
        assert function(prompt, texts, [[1]] * 4).values == (1.0, 1.0, 0.0, 0.0)
    function.close()


@pytest.mark.parametrize(
    ("code", "reward"),
    [
        ("def double(x):\n    return x + x", 1.0),
        ("def double(x):\n    return x", 0.0),
        ("import os\nos._exit(0)", 0.0),
        ("raise SystemExit(0)", 0.0),
        ("while True: pass", 0.0),
    ],
)
def test_code_passes_its_tests_or_does_not(code: str, reward: float) -> None:
    function = RewardFunction(f"{ROOT}/examples/rewards.py:passes_tests", timeout=30.0)
    prompt = Prompt("one", (), {"tests": ["assert double(3) == 6"]}, (), "ask")
    assert function(prompt, [code], [[1]]).values == (reward,)
    function.close()


def test_equal_forms_are_right() -> None:
    pytest.importorskip("math_verify")
    function = RewardFunction(f"{ROOT}/examples/rewards.py:equal_math", timeout=60.0)
    prompt = Prompt("one", (), {"answer": "\\frac{1}{2}"}, (), "ask")
    texts = ["\\boxed{\\frac{1}{2}}", "1/2", "2/4", "1/3"]
    assert function(prompt, texts, [[1]] * 4).values == (1.0, 1.0, 1.0, 0.0)
    function.close()
