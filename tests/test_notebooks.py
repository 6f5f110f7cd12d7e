"""Every notebook runs from top to bottom and is committed with outputs, which are small."""

import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
MOST_BYTES = 300_000
# raised inside jupyter's own start-up
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_as_it_ran(path: Path) -> None:
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    # from top to bottom, once
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error"]
    assert path.stat().st_size < MOST_BYTES
    # nothing of the machine that ran it
    said = str(
        [{**output, "data": {**output.get("data", {}), "image/png": ""}} for output in outputs]
    )
    assert not re.findall(r"/(?:home|root|work|Users|tmp(?!/notebook))\b[^\s']*", said)


def _with_its_mark(path: Path) -> object:
    # those that train take a minute each
    return path if "figures" in path.stem else pytest.param(path, marks=pytest.mark.slow)


@pytest.mark.parametrize("path", [*map(_with_its_mark, NOTEBOOKS)], ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where notebooks put their runs
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    shutil.rmtree(tmp_path)  # checkpoints of a real backbone are large
