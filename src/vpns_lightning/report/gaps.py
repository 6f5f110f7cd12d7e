"""What is missing from a figure: of the runs' own grid, and of the paper's."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

from vpns_lightning.report.definitions import Definition
from vpns_lightning.report.measures import Axis
from vpns_lightning.report.membership import paper_id
from vpns_lightning.report.runs import Run, in_order


def is_asked_for(definition: Definition, runs: Sequence[Run]) -> bool:
    """Return whether the paper's levels and seeds are asked for: not in twins or own grids."""
    return bool(definition.seeds) and any(
        not run.grid or (paper_id(run.grid) == definition.id and not run.grid.endswith("_mini"))
        for run in runs
    )


def missing_cells(
    runs: Sequence[Run], line: Callable[[Run], str], axis: Axis
) -> tuple[list[str], int]:
    """Return what lacks of methods x levels x seeds, one line for a method and level; and all.

    Imported runs, whose seeds nobody knows, lack nothing.
    """
    runs = [run for run in runs if run.record.seed is not None]
    labels = list(dict.fromkeys(line(run) for run in runs))
    levels = sorted({axis.group(run) for run in runs}, key=str)
    seeds = in_order({run.record.seed for run in runs})
    there = {(line(run), axis.group(run), run.record.seed) for run in runs}
    lines = []
    for label, level in product(labels, levels):
        lost = [seed for seed in seeds if (label, level, seed) not in there]
        if lost:
            which = "all seeds" if tuple(lost) == seeds else f"seed {', '.join(map(str, lost))}"
            lines.append(f"{label}, {show_level(level, axis)}: {which}")
    return lines, len(labels) * len(levels) * len(seeds)


def show_level(level: object, axis: Axis) -> str:
    """Return a level as text, with its unit."""
    if isinstance(level, float):
        return f"{100 * level:.4g} %"
    unit = axis.label.partition("(")[2].rstrip(")")
    return f"{level} {unit}".strip()


def absent_from_paper(definition: Definition, runs: Sequence[Run]) -> tuple[str, ...]:
    """Return what the paper's figure has besides: methods, data sets, sparsities, seeds."""
    found: list[tuple[str, Sequence[Any], set[Any]]] = [
        ("data sets", definition.datasets, {run.record.dataset for run in runs}),
        ("methods", definition.lines, {definition.line(run) for run in runs}),
        ("sparsities", definition.sparsities, {run.record.sparsity_requested for run in runs}),
        ("seeds", definition.seeds, {run.record.seed for run in runs}),
    ]
    texts = []
    for what, wanted, have in found:
        lost = [value for value in wanted if value not in have]
        if lost:
            shown = (f"{100 * v:g} %" if isinstance(v, float) else str(v) for v in lost)
            texts.append(f"{what} {', '.join(shown)}")
    return tuple(texts)
