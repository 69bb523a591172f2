"""The notebook of the examples, executed."""

from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "own_task.ipynb"


@pytest.mark.end_to_end
@pytest.mark.timeout(600)
def test_the_notebook_trains(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    table, verdict = (cell.outputs[-1]["data"]["text/plain"] for cell in notebook.cells[-2:])
    assert len(table.splitlines()) == 4 and "reward_mean" in table
    assert "All 3 steps (run.max_steps) are done" in verdict and "yes-or-no/model" in verdict
    shown = "".join(one.get("text") or one["data"]["text/plain"] for one in notebook.cells[3].outputs)
    assert "step   3" in shown and "Warning" not in shown
    assert (tmp_path / "runs" / "yes-or-no" / "model" / "README.md").read_text().startswith("---\n")
