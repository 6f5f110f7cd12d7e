"""The page: one HTML file with its data, its style and its script inside."""

import json
import statistics
from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from msgspec import UnsetType

from vpns_lightning._version import __version__
from vpns_lightning.base.files import write_text
from vpns_lightning.report.comparability import mixture
from vpns_lightning.report.definitions import DEFINITIONS
from vpns_lightning.report.further import FURTHER
from vpns_lightning.report.gaps import show_level
from vpns_lightning.report.panels import (
    Curve,
    Drawn,
    FurtherDrawn,
    Panel,
    Point,
    Report,
    Table,
)
from vpns_lightning.report.runs import Run, in_order, number
from vpns_lightning.report.statistics import difference_table
from vpns_lightning.report.styles import styles_of
from vpns_lightning.report.tables import panel_table

PAGE = "index.html"
# what browsers show, the sharper first
PICTURES = {".svg": "image/svg+xml", ".png": "image/png"}
# of the page's other parts, and of what stands in them
PAGE_IDS = (
    *("cost", "layers", "commands", "lacking", "main", "filters", "contents", "summary", "data"),
    *("tip", "cost-axis", "layer-level", "body-cost", "body-layers", "body-commands"),
    "body-lacking",
)


def write_page(report: Report, output: Path) -> Path:
    """Write the page and return its path."""
    folder = files("vpns_lightning.report") / "templates"
    parts = {
        "/*STYLE*/": (folder / "page.css").read_text(),
        "/*SCRIPT*/": (folder / "chart.js").read_text() + (folder / "page.js").read_text(),
        # nothing in the data can end the script element
        "/*DATA*/": json.dumps(content(report), separators=(",", ":")).replace("<", "\\u003c"),
    }
    page = (folder / "page.html").read_text()
    for mark, text in parts.items():
        page = page.replace(mark, text)
    write_text(output / PAGE, page)
    return output / PAGE


def _picture(figure: FurtherDrawn) -> dict[str, Any]:
    """Return a figure as part of the page, with the names of its files beside it."""
    sources = {file.suffix: file for file in figure.files if file.suffix in PICTURES}
    suffix = next((suffix for suffix in PICTURES if suffix in sources), "")
    shown = b64encode(sources[suffix].read_bytes()).decode() if suffix else ""
    return {
        "id": figure.name,
        "title": figure.title,
        "said": figure.said,
        "alt": f"{figure.title}: {'; '.join(figure.panels)}",
        "wide": figure.wide or len(figure.panels) > 1,
        "picture": f"data:{PICTURES[suffix]};base64,{shown}" if suffix else "",
        "files": [file.name for file in figure.files if file.suffix != ".txt"],
    }


def content(report: Report) -> dict[str, Any]:
    """Return what the page shows, as plain values."""
    panels = [panel for drawn in report.drawn if drawn.exhibit for panel in drawn.exhibit.panels]
    dense = _once(curve.label for panel in panels for curve in panel.dense)
    curves = _once(curve.label for panel in panels for curve in panel.curves)
    cells = _cells(report.runs)
    methods = _once([*curves, *dense, *(cell["label"] for cell in cells)])
    titles = {definition.id: definition.title for definition in DEFINITIONS}
    titles |= {figure.name: figure.title for figure in FURTHER}
    return {
        "summary": _summary(report),
        "styles": {label: style._asdict() for label, style in styles_of(methods).items()},
        "methods": methods,
        "dense": dense,
        "datasets": sorted({run.dataset for run in report.runs}),
        "exhibits": [_exhibit(drawn) for drawn in report.drawn],
        "further": [_picture(figure) for figure in report.further.values()],
        "notes": report.notes,
        "cells": cells,
        "runs": [_run(run) for run in report.runs],
        "broken": [{"path": str(b.path), "reason": b.reason} for b in report.broken],
        "lacking": [[name, titles[name], how] for name, how in report.lacking.items()],
    }


def _summary(report: Report) -> str:
    runs = report.runs
    counts = (
        (len(runs), "finished run"),
        (len({run.grid_label for run in runs}), "method"),
        (len({run.dataset for run in runs}), "data set"),
        (len({run.record.seed for run in runs} - {None}), "seed"),
    )
    texts = [f"{count:,} {name}{'' if count == 1 else 's'}" for count, name in counts]
    return f"{', '.join(texts)}. Drawn by vpns_lightning {__version__} from files of runs alone."


def _exhibit(drawn: Drawn) -> dict[str, Any]:
    exhibit = drawn.exhibit
    return {
        "id": drawn.definition.file,
        "title": drawn.definition.title,
        "panels": [_panel(panel) for panel in exhibit.panels] if exhibit else [],
        "tables": [] if exhibit else [_table(table) for table in drawn.tables],
        "refused": exhibit.refused if exhibit else [],
        "missing": exhibit.missing if exhibit else [],
        "absent": exhibit.absent if exhibit else [],
    }


def _panel(panel: Panel) -> dict[str, Any]:
    names = [level for level in panel.levels if isinstance(level, str)]
    differences = difference_table(panel)
    return {
        "dataset": panel.dataset,
        "title": panel.title,
        "x": panel.axis.label,
        "y": panel.measure.label,
        "decimals": panel.measure.decimals,
        "names": names or None,
        "levels": panel.levels,
        "curves": [_curve(curve, panel) for curve in panel.curves],
        "dense": [_curve(curve, panel) for curve in panel.dense],
        "full": max((len(p.seeds) for c in panel.curves for p in c.points), default=0),
        "notes": panel.notes,
        "table": _table(panel_table(panel)),
        "differences": differences and _table(differences),
    }


def _curve(curve: Curve, panel: Panel) -> dict[str, Any]:
    return {"label": curve.label, "points": [_point(point, panel) for point in curve.points]}


def _point(point: Point, panel: Panel) -> dict[str, Any]:
    x = point.x if isinstance(point.x, str) else round(point.x, 4)
    return {
        "level": point.level,
        "x": x,
        "mean": round(point.mean, 4),
        "std": None if point.std is None else round(point.std, 4),
        "seeds": point.seeds,
        "where": show_level(point.level, panel.axis),
    }


def _table(table: Table) -> dict[str, Any]:
    return {
        "title": table.title,
        "columns": table.columns,
        "rows": [[{"text": c.text, "bold": c.bold} for c in row] for row in table.rows],
        "note": table.note,
    }


def _cells(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return what runs that differ in their seed alone cost and reached, with their layers."""
    groups: dict[tuple[str, str, str, str, float], list[Run]] = defaultdict(list)
    for run in runs:
        key = (
            run.dataset,
            run.record.backbone,
            run.grid,
            run.grid_label,
            run.record.sparsity_requested,
        )
        groups[key].append(run)
    cells = []
    for (dataset, backbone, grid, label, asked), group in groups.items():
        if mixture(group) is not None:
            continue
        accuracy = [run.accuracy for run in group]
        cells.append(
            {
                "dataset": dataset,
                "where": ", ".join(part for part in (dataset, backbone, grid) if part),
                "label": label,
                "level": round(100 * asked, 4),
                "mean": round(statistics.fmean(accuracy), 4),
                "std": round(statistics.stdev(accuracy), 4) if len(group) > 1 else None,
                "seeds": in_order(run.record.seed for run in group),
                "steps": _mean(run.record.gradient_steps for run in group),
                "passes": _mean(run.record.forward_backward_passes for run in group),
                "seconds": _mean(run.record.seconds for run in group),
                "layers": _layers(group),
            }
        )
    return sorted(cells, key=lambda cell: (cell["where"], cell["level"]))


def _mean(values: Iterable[float | UnsetType | None]) -> float | None:
    numbers = [value for stated in values if (value := number(stated)) is not None]
    return round(statistics.fmean(numbers), 2) if numbers else None


def _layers(runs: Sequence[Run]) -> dict[str, float]:
    """Return the mean sparsity of each layer in percent."""
    values: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        for name, sparsity in (run.record.sparsity_per_layer or {}).items():
            values[name].append(100 * sparsity)
    return {name: round(statistics.fmean(shares), 2) for name, shares in values.items()}


def _run(run: Run) -> dict[str, Any]:
    return {
        "label": run.grid_label,
        "dataset": run.dataset,
        "level": round(100 * run.record.sparsity_requested, 4),
        "seed": run.record.seed,
        "accuracy": round(run.accuracy, 4),
        "command": run.record.command or "",
        "path": str(run.path.parent),
    }


def _once(labels: Any) -> list[str]:  # any iterable of labels
    return list(dict.fromkeys(labels))
