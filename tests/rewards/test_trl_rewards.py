"""TRL's own reward functions, unchanged."""

from pathlib import Path

import pytest

from rewards.function import RewardFunction
from rewards.prompts import Prompt

pytest.importorskip("trl")
pytest.importorskip("math_verify")

SOURCE = """
from trl.rewards import accuracy_reward, get_soft_overlong_punishment, think_format_reward
soft = get_soft_overlong_punishment(max_completion_len=10, soft_punish_cache=4)
"""

CHAT = Prompt("sum", ({"role": "user", "content": "What is 1/2 + 1/4?"},), {"solution": r"\frac{3}{4}"}, (1,), None)


def rewards(
    folder: Path, name: str, texts: list[str], tokens: list[list[int]] | None = None
) -> tuple[float | None, ...]:
    path = folder / "mine.py"
    path.write_text(SOURCE)
    function = RewardFunction(f"{path}:{name}", timeout=60.0)
    try:
        function.check(("solution",))
        return function(CHAT, texts, tokens or [[1]] * len(texts)).values
    finally:
        function.close()


def test_accuracy(tmp_path: Path) -> None:
    assert rewards(tmp_path, "accuracy_reward", [r"It is \boxed{\frac{3}{4}}", r"It is \boxed{\frac{1}{2}}"]) == (
        1.0,
        0.0,
    )


def test_think_format(tmp_path: Path) -> None:
    assert rewards(tmp_path, "think_format_reward", ["<think>\nso\n</think>\n3/4", "3/4"]) == (1.0, 0.0)


def test_soft_overlong_punishment(tmp_path: Path) -> None:
    assert rewards(tmp_path, "soft", ["a", "b", "c"], [[1] * 4, [1] * 8, [1] * 12]) == (0.0, -0.5, -1.0)
