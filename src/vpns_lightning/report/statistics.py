"""What seeds allow to say: paired differences between methods, with intervals of Student's t."""

import csv
import io
import math
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from scipy.special import stdtrit  # scipy.stats has it too, and takes a second to import

from vpns_lightning.report.gaps import show_level
from vpns_lightning.report.measures import ACCURACY
from vpns_lightning.report.panels import Cell, Curve, Exhibit, Panel, Point, Table

LEVEL = 0.95
COLUMNS = (
    *("figure", "panel", "level", "method", "minus", "difference", "low", "high"),
    *("seeds", "verdict"),
)
NOTE = (
    "Mean difference between runs of equal seed in percentage points, [95 % interval of Student's "
    "t], (number of pairs); bold where the interval leaves out 0. A single pair has no interval. "
    "Intervals are of seeds, each for itself: not of other data, nor corrected for their number."
)


@dataclass(frozen=True)
class Difference:
    """The first method minus the second, over the seeds that both have.

    Attributes:
        mean: Of the differences, in the unit of the measure.
        low: Lower end of the interval; None for a single seed.
        high: Upper end.
        seeds: The seeds.
    """

    mean: float
    low: float | None
    high: float | None
    seeds: tuple[int, ...]

    @property
    def verdict(self) -> str:
        """Return ``higher`` or ``lower`` where the interval leaves out 0, else ``undecided``."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return "undecided"
        return "higher" if self.low > 0 else "lower"


def paired_difference(first: Point, second: Point) -> Difference | None:
    """Return the difference between two methods in pairs of equal seed.

    With ``d`` the ``n`` differences the interval is ``mean(d) ± t * std(d) / sqrt(n)``, where ``t``
    is the quantile of Student's t with ``n - 1`` degrees of freedom.

    Args:
        first: Runs of one method.
        second: Runs of the other.

    Returns:
        The difference, None where no seed is in both.
    """
    ours, theirs = _by_seed(first), _by_seed(second)
    seeds = tuple(sorted(ours.keys() & theirs.keys()))
    if not seeds:
        return None
    differences = [ours[seed] - theirs[seed] for seed in seeds]
    mean, count = statistics.fmean(differences), len(seeds)
    if count == 1:
        return Difference(mean, None, None, seeds)
    quantile = float(stdtrit(count - 1, (1 + LEVEL) / 2))
    half = quantile * statistics.stdev(differences) / math.sqrt(count)
    return Difference(mean, mean - half, mean + half, seeds)


def difference_table(panel: Panel) -> Table | None:
    """Return the panel's first method minus each other one, a column for each level.

    None where the panel is not of accuracy, or no two methods share two seeds or more.
    """
    if not _of_accuracy(panel) or not panel.curves:
        return None
    first, *others = panel.curves
    others = [*panel.dense, *others]
    found = [[_at(first, other, level) for level in panel.tried] for other in others]
    if not any(each and each.low is not None for row in found for each in row):
        return None
    rows = [(Cell(other.label), *map(_cell, row)) for other, row in zip(others, found, strict=True)]
    heads = (show_level(level, panel.axis) for level in panel.tried)
    title = f"{panel.title}: {first.label} minus the others"
    return Table(title, (f"{first.label} minus", *heads), tuple(rows), NOTE)


def differences_csv(exhibits: Iterable[Exhibit]) -> str:
    """Return the differences between any two methods of any panel of accuracy, one a line."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for exhibit in exhibits:
        for panel in exhibit.panels:
            if _of_accuracy(panel):
                writer.writerows((exhibit.definition.id, *line) for line in _lines(panel))
    return out.getvalue()


def _of_accuracy(panel: Panel) -> bool:
    # a pilot study has two, before and after its prompt
    return panel.measure.label == ACCURACY.label


def _lines(panel: Panel) -> Iterator[tuple[Any, ...]]:
    for first, second in combinations((*panel.curves, *panel.dense), 2):
        for level in panel.tried:
            found = _at(first, second, level)
            if found is not None:
                numbers = (_text(n) for n in (found.mean, found.low, found.high))
                seeds = " ".join(map(str, found.seeds))
                where = (panel.title, show_level(level, panel.axis), first.label, second.label)
                yield (*where, *numbers, seeds, found.verdict)


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:z.4f}"


def _at(first: Curve, second: Curve, level: object) -> Difference | None:
    ours, theirs = _point(first, level), _point(second, level)
    return paired_difference(ours, theirs) if ours and theirs else None


def _point(curve: Curve, level: object) -> Point | None:
    """Return a curve's point at a level; a dense network's own, which holds for all of them."""
    if len(curve.points) == 1 and all(run.dense for run in curve.points[0].runs):
        return curve.points[0]
    return next((point for point in curve.points if point.level == level), None)


def _by_seed(point: Point) -> dict[int, float]:
    seeds = (run.record.seed for run in point.runs)
    pairs = zip(seeds, point.values, strict=True)
    return {seed: value for seed, value in pairs if seed is not None}


def _cell(found: Difference | None) -> Cell:
    if found is None:
        return Cell("none")
    text = f"{found.mean:+z.2f}"
    if found.low is not None and found.high is not None:
        text += f" [{found.low:+z.2f}, {found.high:+z.2f}]"
    return Cell(f"{text} ({len(found.seeds)})", bold=found.verdict != "undecided")
