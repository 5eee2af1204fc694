"""The notebooks run from top to bottom, and hold the output of such a run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

TIMEOUT_SECONDS = 180

read: Any = nbformat.read  # It has no types.


def outputs(notebook: Any) -> list[list[tuple[str, ...]]]:
    """Return the kinds of the outputs of each cell of code; pieces of one stream count once."""
    return [
        sorted({(each.output_type, *sorted(each.get("data", {}))) for each in cell.outputs})
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


@pytest.mark.filterwarnings("default")  # Of the libraries that talk to the kernel.
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_holds_its_output(path: Path) -> None:
    """No cell fails, and the stored outputs are those of one run, of the same kinds as now."""
    stored, notebook = (read(path, as_version=4) for _ in range(2))
    counts = [cell.execution_count for cell in stored.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    )
    clean = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    source = {"PYTHONPATH": str(ROOT / "client" / "src"), "OPENBLAS_NUM_THREADS": "1"}
    client.execute(env={**clean, **source})
    assert outputs(notebook) == outputs(stored)


def test_both_notebooks_are_there() -> None:
    """The notebooks to which the documentation links are those that are run."""
    names = [path.stem for path in NOTEBOOKS]
    assert names == ["choose-a-rule", "from-notebook-to-federation"]
