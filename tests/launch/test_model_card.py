"""The card of a model that was trained."""

from dataclasses import replace

import pytest

from launch.model_card import model_card
from tests.launch import samples


@pytest.mark.parametrize(("before", "column"), [({1: 0.1, 2: 0.2, 4: 0.3}, 4), ({1: 0.1, 2: 0.2, 3: 0.3}, 2)])
def test_its_columns_are_of_as_many_samples_before_and_after(before: dict[int, float], column: int) -> None:
    """An evaluation before training may have taken fewer."""
    result = samples.result()
    result = replace(
        result,
        before=replace(result.before, pass_at=before),
        after=replace(result.after, pass_at={1: 0.5, 2: 0.6, 4: 0.7, 8: 0.8}),
    )
    rows = [line for line in model_card(samples.config(), result, [(1, 0.5)]).splitlines() if line.startswith("|")]
    assert rows[0].endswith(f"| pass@{column} |")
    assert rows[2].endswith(f"| {before[column]:.3f} |")
    assert rows[3].endswith(f"| {result.after.pass_at[column]:.3f} |")
