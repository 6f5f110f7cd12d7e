"""From runs to panels of curves, their gaps, and what may not be drawn."""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any

from vpns_lightning.report.comparability import mixture, remarks
from vpns_lightning.report.definitions import Definition
from vpns_lightning.report.gaps import absent_from_paper, is_asked_for, missing_cells
from vpns_lightning.report.measures import ACCURACY, SPARSITY, Axis, Measure
from vpns_lightning.report.membership import paper_id
from vpns_lightning.report.panels import Curve, Exhibit, Panel, Point
from vpns_lightning.report.runs import Run, in_order, number


def build(definition: Definition, runs: Sequence[Run]) -> Exhibit:
    """Return a figure of the runs that belong to it."""
    # grids that were not made for this figure stay apart; so may their budgets
    grids = {"" if paper_id(run.grid) == definition.id else run.grid for run in runs}
    groups: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in runs:
        own = paper_id(run.grid) == definition.id
        grid = run.grid if len(grids) > 1 and not own else ""
        # grids that vary different things share cells
        apart = run.grid if len(definition.axes) > 1 else ""
        key = (run.dataset, run.record.backbone, definition.panel(run), grid, apart)
        groups[key].append(run)
    panels = []
    for place in sorted(groups, key=lambda k: (*_order(definition.datasets, k[0]), k[1:])):
        for axis, measures in product(definition.axes, _by_label(definition.measures)):
            chosen = _along(axis, groups[place], definition.axes)
            # imported runs do not say what they cost, others may have held out no image
            if any(m.value(run) is not None for m in measures for run in chosen):
                panels.append(_panel(definition, place, axis, measures, chosen))
    # a small twin, or a grid of one's own, was never to be the paper's figure
    absent = absent_from_paper(definition, runs) if is_asked_for(definition, runs) else ()
    return Exhibit(definition, tuple(panels), absent)


def _by_label(measures: Sequence[Measure]) -> list[list[Measure]]:
    groups: dict[str, list[Measure]] = defaultdict(list)
    for measure in measures:
        groups[measure.label].append(measure)
    return list(groups.values())


def _along(axis: Axis, runs: Sequence[Run], axes: Sequence[Axis]) -> list[Run]:
    """Return the runs that vary along one axis, the others at their most frequent value."""
    if len(axes) > 1 and not _varies(axis, runs) and any(_varies(a, runs) for a in axes):
        return []
    chosen = [run for run in runs if axis.group(run) is not None]
    for other in axes:
        values = [other.group(run) for run in chosen if other.group(run) is not None]
        if values and other is not axis:
            usual = max(dict.fromkeys(values), key=values.count)
            chosen = [run for run in chosen if other.group(run) in (usual, None)]
    return chosen


def _varies(axis: Axis, runs: Sequence[Run]) -> bool:
    return len({axis.group(run) for run in runs} - {None}) > 1


def _panel(
    definition: Definition,
    key: tuple[str, ...],
    axis: Axis,
    measures: Sequence[Measure],
    runs: Sequence[Run],
) -> Panel:
    dataset, backbone, extra, grid, _ = key
    lines: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        lines[definition.line(run)].append(run)
    curves: list[Curve] = []
    dense: list[Curve] = []
    for label in sorted(lines, key=lambda name: _order(definition.lines, name)):
        for measure in measures:
            curve = curve_of(label + measure.suffix, lines[label], axis, measure)
            if curve.points or curve.refused:
                flat = all(run.dense for run in lines[label])
                (dense if flat else curves).append(curve)
    if not dense and axis is SPARSITY and ACCURACY in measures:
        dense += _warmed_up(runs)
    strict = axis is SPARSITY and is_asked_for(definition, runs)
    asked = definition.sparsities if strict else ()
    steady = [run for run in runs if not run.dense]
    tried = {axis.group(run) for run in steady}
    missing, cells = missing_cells(steady, definition.line, axis)
    return Panel(
        dataset,
        backbone,
        ", ".join(part for part in (dataset, backbone, extra, grid) if part),
        axis,
        measures[0],
        tuple(curves),
        tuple(dense),
        tuple(sorted(tried | set(asked))),
        tuple(sorted(tried)),
        cells,
        tuple(f"{', '.join(part for part in (dataset, extra) if part)}: {m}" for m in missing),
        tuple(remarks(lines)),
    )


def curve_of(label: str, runs: Sequence[Run], axis: Axis, measure: Measure) -> Curve:
    """Return the curve of runs that differ in the axis and their seed, empty where more differs."""
    reason = mixture(runs, axis.keys)
    if reason is not None:
        return Curve(label, (), reason)
    levels: dict[Any, list[Run]] = defaultdict(list)
    for run in runs:
        if measure.value(run) is not None:
            levels[axis.group(run)].append(run)
    for level, group in levels.items():
        twice = _repeated(run.record.seed for run in group if run.record.seed is not None)
        if twice is not None:
            same = [str(run.path.parent) for run in group if run.record.seed == twice]
            where = f"{axis.label.partition(' (')[0]} {level}"
            reason = f"two runs of seed {twice} at {where}: {' and '.join(same[:2])}; keep one"
            return Curve(label, (), reason)
    points = [_point(level, group, axis, measure.value) for level, group in levels.items()]
    return Curve(label, tuple(sorted(points, key=lambda point: point.x)))


def _point(
    level: object, runs: Sequence[Run], axis: Axis, value: Callable[[Run], float | None]
) -> Point:
    numbers = [float(number) for run in runs if (number := value(run)) is not None]
    places = [axis.place(run) for run in runs]
    return Point(
        level,
        places[0] if isinstance(places[0], str) else statistics.fmean(places),
        statistics.fmean(numbers),
        statistics.stdev(numbers) if len(numbers) > 1 else None,
        in_order(run.record.seed for run in runs),
        tuple(runs),
        tuple(numbers),
    )


def _warmed_up(runs: Sequence[Run]) -> list[Curve]:
    """Return the level of the dense warm-up, where all runs of a seed had the same."""
    values: dict[int | None, set[float]] = defaultdict(set)
    for run in runs:
        value = number(run.record.dense_accuracy)
        if value is not None:
            values[run.record.seed].add(100 * value)
    if not values or any(len(found) > 1 for found in values.values()):
        return []
    numbers = [value for (value,) in values.values()]
    std = statistics.stdev(numbers) if len(numbers) > 1 else None
    seeds = in_order(values)
    point = Point(0.0, 0.0, statistics.fmean(numbers), std, seeds, (), ())
    return [Curve("Dense, warm-up", (point,))]


def _repeated(seeds: Iterable[int]) -> int | None:
    seen: set[int] = set()
    for seed in seeds:
        if seed in seen:
            return seed
        seen.add(seed)
    return None


def _order(known: Sequence[str], name: str) -> tuple[float, str]:
    return (known.index(name) if name in known else math.inf, name)
