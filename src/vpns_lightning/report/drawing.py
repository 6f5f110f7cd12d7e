"""Marks on a pair of axes, and figures as files."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vpns_lightning.base.files import whole_file
from vpns_lightning.report.panels import Curve, Panel, Point
from vpns_lightning.report.styles import DASHES, Look, Style, family_of, style_of

LETTER = 0.068  # inches of a letter at the size of a screen
HANDLE = 3.2  # letters: a line in the legend is long enough for its dashes


def write_figure(make: Callable[[], Any], folder: Path, name: str, look: Look) -> list[Path]:
    """Write a figure in every format of a look, straight to the canvases.

    Args:
        make: Makes the figure.
        folder: Where.
        name: Of the files.
        look: Its formats.

    Returns:
        The files.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    canvases: dict[str, tuple[Any, dict[str, Any]]] = {
        "png": (FigureCanvasAgg, {}),
        "svg": (FigureCanvasSVG, {"metadata": {"Date": None}}),
        "pdf": (FigureCanvasPdf, {"metadata": {"CreationDate": None}}),
    }
    files = []
    # text stays text, and the same figure gives the same file
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": name, "pdf.fonttype": 42}
    with mpl.rc_context(settings):
        figure = make()
        if figure.get_layout_engine() is not None:  # once, not again for every format
            FigureCanvasAgg(figure)
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
        for suffix in look.formats:
            canvas, options = canvases[suffix]
            # savefig would lay everything out twice
            with whole_file(folder / f"{name}.{suffix}") as temporary:
                getattr(canvas(figure), f"print_{suffix}")(temporary, **options)
            files.append(folder / f"{name}.{suffix}")
    return files


def legend_handle(label: str, style: Style, look: Look) -> Any:
    """Return what stands for a method in a legend."""
    from matplotlib.lines import Line2D

    line = Line2D([], [], label=label, color=style.color, marker=style.marker)
    line.set(linestyle=DASHES[style.dash], markersize=look.marker, linewidth=look.line)
    return line


def draw_curve(axes: Any, curve: Curve, panel: Panel, style: Style, look: Look) -> None:
    """Draw a curve, broken where a level has no run; hollow where a seed is missing."""
    names = [level for level in panel.levels if isinstance(level, str)]

    def places(points: Sequence[Point]) -> list[Any]:
        return [names.index(p.x) if isinstance(p.x, str) else p.x for p in points]

    for part in unbroken(curve, panel.levels):
        means = [p.mean for p in part]
        line = {"color": style.color, "linewidth": look.line, "linestyle": DASHES[style.dash]}
        if not names:  # kinds have no order, so nothing lies between them
            axes.plot(places(part), means, **line)
        low = [p.mean - (p.std or 0) for p in part]
        high = [p.mean + (p.std or 0) for p in part]
        if len(part) > 1 and low != high and not names:
            axes.fill_between(places(part), low, high, color=style.color, alpha=0.15, linewidth=0)
        elif low != high:
            axes.vlines(places(part), low, high, color=style.color, linewidth=0.6 * look.line)
    full = max((len(point.seeds) for c in panel.curves for point in c.points), default=0)
    for fill in (True, False):
        points = [point for point in curve.points if (len(point.seeds) == full) is fill]
        face = {"markerfacecolor": style.color if fill else "white", "markersize": look.marker}
        if points:
            means = [p.mean for p in points]
            marker = style.marker or "o"
            axes.plot(places(points), means, marker, color=style.color, linestyle="", **face)


def unbroken(curve: Curve, levels: Sequence[Any]) -> list[list[Any]]:
    """Return the runs of neighbouring levels of a curve: where one is missing, it breaks."""
    points = {point.level: point for point in curve.points}
    parts: list[list[Any]] = [[]]
    for level in levels:
        if level in points:
            parts[-1].append(points[level])
        else:
            parts.append([])
    return [part for part in parts if part]


def draw_dots(axes: Any, panel: Panel, look: Look) -> None:
    """Draw a line for each method, the best at the top, for what has a single level."""
    rows = [(c.points[0], c.label) for c in (*panel.curves, *panel.dense) if c.points]
    rows.sort(key=lambda pair: pair[0].mean, reverse=panel.measure.best == "min")
    for height, (point, label) in enumerate(rows):
        style = style_of(family_of(label))
        if point.std:
            ends = point.mean - point.std, point.mean + point.std
            axes.hlines(height, *ends, color=style.color, linewidth=look.line)
        face = {"color": style.color, "markersize": look.marker}
        axes.plot(point.mean, height, style.marker or "|", **face)
    axes.set_yticks(range(len(rows)), [label for _, label in rows])
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.locator_params("x", nbins=5)
    axes.set_xlabel(panel.measure.label, fontsize=look.font)
