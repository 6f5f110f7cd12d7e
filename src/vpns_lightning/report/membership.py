"""Which runs belong to which figure."""

from collections.abc import Sequence

from vpns_lightning.report.definitions import BASELINES, IDS, STUDIES, Definition, plainly
from vpns_lightning.report.measures import ACCURACY, VALIDATION
from vpns_lightning.report.runs import Run


def further_axes(run: Run) -> str:
    """Return what the grid of a run varies besides method, data and backbone, as text."""
    others = {key: value for key, value in run.axes.items() if key not in {"data", "backbone"}}
    return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in others.items())


def overview(grid: str) -> Definition:
    """Return the figure of a grid that is named after nothing in the paper, or of runs by hand."""
    return Definition(
        id=grid or "runs",
        title=f"Accuracy against sparsity: grid {grid}" if grid else "Accuracy against sparsity",
        choose=lambda run: run.grid == grid and (bool(grid) or plainly(run)),
        measures=(ACCURACY, VALIDATION),
        panel=further_axes,
        lines=("VPNs", *BASELINES),
        sparsities=(),
        seeds=(),
        grid=grid,
    )


def paper_id(grid: str) -> str:
    """Return the id a grid's name begins with (``fig4_cifar100``, ``fig4_mini``), or ``""``.

    What only makes masks for another grid (``fig6_source``) belongs to no figure.
    """
    first, *rest = grid.split("_")
    if "source" in rest:
        return ""
    return next((name for name in IDS if name.lower() == first.lower()), "")


def members(definition: Definition, runs: Sequence[Run]) -> list[Run]:
    """Return the runs of a figure: of its own grids, and those by hand that fit."""
    return [run for run in runs if _belongs(definition, run)]


def _belongs(definition: Definition, run: Run) -> bool:
    owner = paper_id(run.grid)
    if definition.grid is not None:
        return definition.choose(run)
    if definition.id == owner:
        return True
    if run.grid and not (definition.any_grid and owner not in STUDIES):
        return False
    return definition.choose(run)
