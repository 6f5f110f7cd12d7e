"""The grids in small really run: every distinct config of every ``*_mini.yaml``, shortened."""

import json
from pathlib import Path

import pytest

from vpns_lightning import cli
from vpns_lightning.commands.grid import resolver
from vpns_lightning.grid.cells import Cell, expand
from vpns_lightning.grid.file import read_grid
from vpns_lightning.runs.folder import method_leaves

ROOT = Path(__file__).parents[2]
SHORT = {
    "trainer.limit_train_batches": 2,
    "trainer.limit_val_batches": 1,
    "trainer.enable_progress_bar": False,
    "warmup.epochs": 0,
}
BACKBONE = "network.backbone"
TINY = f"--{BACKBONE}=squeezenet1_1"
pytestmark = pytest.mark.slow


def small_cells() -> list[Cell]:
    """Return all cells of the small grids."""
    resolve = resolver()
    files = sorted((ROOT / "configs" / "grid").glob("*_mini.yaml"))
    return [cell for path in files for cell in expand(read_grid(path), resolve, SHORT)]


def essence(cell: Cell) -> str:
    """Return what makes a cell another test than the others."""
    leaves = method_leaves(cell.config)
    for key in ("seed_everything", "find.sparsity", "find.pruner.init_args.path"):
        leaves.pop(key, None)
    return json.dumps(leaves, sort_keys=True, default=str)


def check_run(cell: Cell, sources: dict[Path, Cell]) -> None:
    """Run a cell, and before it the one whose masks it tunes."""
    if cell.needs is not None and not cell.needs.is_file():
        check_run(sources[cell.needs.parent], sources)
    # Slim ranks by batch normalisation, which the tiny one has not
    tiny = [] if BACKBONE in cell.axes or cell.grid == "fig8_mini" else [TINY]
    cli.main(["fit", *cell.arguments, *tiny])
    result = json.loads((cell.folder / "result.json").read_text())
    assert abs(result["sparsity"] - cell.sparsity) < 0.1, cell.name
    assert (result["dataset"], result["seed"]) == ("Digits", cell.seed)


@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore:layer collapse")  # of weights that nobody trained
def test_every_config_of_the_small_grids_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one process: what takes time is starting one."""
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    monkeypatch.chdir(ROOT)
    cells = small_cells()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    sources = {cell.folder: cell for cell in cells}
    for cell in {essence(cell): cell for cell in reversed(cells)}.values():
        check_run(cell, sources)
    assert len(list(tmp_path.glob("runs/*/*/result.json"))) > 30
