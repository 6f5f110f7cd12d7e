"""What is drawn: points, curves, panels and figures, as plain values."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vpns_lightning.report.definitions import Definition
from vpns_lightning.report.measures import Axis, Measure
from vpns_lightning.report.runs import Broken, Run


@dataclass(frozen=True)
class Point:
    """Runs that differ in their seed alone.

    Attributes:
        level: What they share: the sparsity asked for, a size, a kind of prompt.
        x: Where they lie, the mean of what was measured; the level itself where it is a name.
        mean: Of the measure.
        std: Sample standard deviation over seeds; None for a single one.
        seeds: Their seeds; None for one that is not known.
        runs: The runs.
        values: Of the measure, one a run.
    """

    level: Any
    x: Any
    mean: float
    std: float | None
    seeds: tuple[int | None, ...]
    runs: tuple[Run, ...] = field(repr=False)
    values: tuple[float, ...] = field(repr=False)


@dataclass(frozen=True)
class Curve:
    """One method in one panel; without points where its runs must not be mixed.

    Attributes:
        label: Name.
        points: From left to right.
        refused: Why nothing is drawn, empty if it is.
    """

    label: str
    points: tuple[Point, ...]
    refused: str = ""


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        dataset: Data set.
        backbone: Backbone.
        title: Says what sets it apart.
        axis: From left to right.
        measure: From bottom to top.
        curves: Methods.
        dense: Methods that remove nothing: a level, not a curve.
        levels: All values that a curve has to have to be unbroken, in order.
        tried: Those of them that some method has runs at.
        cells: How many cells the runs imply.
        missing: Those of them without a run.
        notes: Remarks on what is compared.
    """

    dataset: str
    backbone: str
    title: str
    axis: Axis
    measure: Measure
    curves: tuple[Curve, ...]
    dense: tuple[Curve, ...]
    levels: tuple[Any, ...]
    tried: tuple[Any, ...]
    cells: int
    missing: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def refused(self) -> list[str]:
        """Why curves are not drawn."""
        return [f"{c.label}: {c.refused}" for c in (*self.curves, *self.dense) if c.refused]


@dataclass(frozen=True)
class Exhibit:
    """A figure with all that is said about it.

    Attributes:
        definition: What it is.
        panels: What is drawn.
        absent: What the paper's figure has and no run here.
    """

    definition: Definition
    panels: tuple[Panel, ...]
    absent: tuple[str, ...]

    @property
    def refused(self) -> list[str]:
        """Why curves are not drawn, each once."""
        return list(dict.fromkeys(text for panel in self.panels for text in panel.refused))

    @property
    def missing(self) -> list[str]:
        """Cells without a run, each once."""
        return list(dict.fromkeys(text for panel in self.panels for text in panel.missing))


@dataclass(frozen=True)
class Cell:
    """One entry.

    Attributes:
        text: What it says.
        bold: The best of its column.
    """

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: Above it.
        columns: Heads of the columns; the first names the rows.
        rows: Entries, as many as there are columns.
        note: Below it.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Drawn:
    """One figure or table of a report.

    Attributes:
        definition: What it is.
        tables: Its numbers.
        exhibit: Its curves; None for what is a table only.
    """

    definition: Definition
    tables: tuple[Table, ...]
    exhibit: Exhibit | None = None


@dataclass(frozen=True)
class FurtherDrawn:
    """A figure that no paper has.

    Attributes:
        name: Of its files.
        title: What it shows.
        said: How it is read.
        panels: What its panels show.
        files: The figure in its formats.
        wide: As long as names of layers need.
    """

    name: str
    title: str
    said: str
    panels: tuple[str, ...]
    files: tuple[Path, ...]
    wide: bool


@dataclass
class Report:
    """What was found and drawn.

    Attributes:
        runs: Results that could be read.
        broken: Files that could not.
        drawn: Figures and tables.
        lacking: Ids of the paper without any run here, each with how to make them.
        further: The figures drawn that are no paper's, by name.
        notes: What could not be shown of the runs, and why.
        files: What was written.
    """

    runs: list[Run]
    broken: list[Broken]
    drawn: list[Drawn] = field(default_factory=list)
    lacking: dict[str, str] = field(default_factory=dict)
    further: dict[str, FurtherDrawn] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    @property
    def refused(self) -> list[str]:
        """Every curve that is not drawn, and why."""
        return [
            f"{drawn.definition.id}: {reason}"
            for drawn in self.drawn
            if drawn.exhibit
            for reason in drawn.exhibit.refused
        ]
