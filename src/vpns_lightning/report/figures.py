"""Figures as PNG and SVG: a fixed colour and marker for each method, bands, the dense line."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from vpns_lightning.base.files import whole_file
from vpns_lightning.report.panels import Curve, Exhibit, Panel, Point


class Style(NamedTuple):
    """How a method looks.

    Attributes:
        color: On white.
        dark: On a dark page.
        marker: Matplotlib's sign.
        dash: 0 drawn through; 1 and 2 dashed and dotted, for variants in their method's colour.
    """

    color: str
    dark: str
    marker: str
    dash: int = 0


# told apart by people with any kind of colour vision; markers tell them apart in print
STYLES = {
    "VPNs": Style("#0072b2", "#56b4e9", "o"),
    "HYDRA": Style("#d55e00", "#f28e4b", "s"),
    "OMP": Style("#b07a00", "#f0b93a", "^"),
    "Random": Style("#6b6b6b", "#b4b4b4", "X"),
    "LTH": Style("#009e73", "#3cc79f", "D"),
    "SNIP": Style("#882255", "#d17aa6", "v"),
    "GraSP": Style("#7f7f1e", "#c9c95a", "P"),
    "SynFlow": Style("#332288", "#9a8ee8", "<"),
    "BiP": Style("#c05a94", "#eb9fc8", ">"),
    "GMP": Style("#44808a", "#7fc4d0", "h"),
    "RigL": Style("#661100", "#d98a78", "p"),
    "Wanda": Style("#3b6fb5", "#8db4ea", "*"),
    "Slim": Style("#009e73", "#3cc79f", "D"),
    "DepGraph": Style("#b07a00", "#f0b93a", "^"),
    "Dense": Style("#222222", "#e6e6e6", "", 1),
    "VPNs w. Dense": Style("#222222", "#e6e6e6", "", 2),
    "Dense, warm-up": Style("#222222", "#e6e6e6", "", 1),
}
SPARE = (
    Style("#aa4466", "#e08aa6", "d"),
    Style("#117733", "#62b97f", "8"),
    Style("#4477aa", "#86b0dc", "H"),
    Style("#7a5c00", "#cdb35a", "1"),
    Style("#5a3e8e", "#b29ae0", "2"),
)


DASHES: tuple[Literal["-", "--", ":"], ...] = ("-", "--", ":")


def style_of(label: str) -> Style:
    """Return the look of a method; a variant looks like its method, dashed or dotted."""
    if label in STYLES:
        return STYLES[label]
    inner = label.removeprefix("VPNs w. ")
    name = next((name for name in sorted(STYLES, key=len, reverse=True) if name in inner), None)
    if name is not None:
        return STYLES[name]._replace(dash=1 if inner != label else 2)
    return SPARE[sum(map(ord, label)) % len(SPARE)]


def styles_of(labels: Sequence[str]) -> dict[str, Style]:
    """Return a look for each label, no two alike where that can be helped."""
    styles: dict[str, Style] = {}
    taken = {STYLES[label][::3] for label in labels if label in STYLES}
    for label in labels:
        style = style_of(label)
        if label not in STYLES:
            # another dash of its own colour, else another colour
            others = (style, *(style._replace(dash=dash) for dash in (2, 1, 0)), *SPARE)
            style = next((other for other in others if other[::3] not in taken), style)
        taken.add(style[::3])
        styles[label] = style
    return styles


# inches around the panels: what stands there is of fixed size
LEFT, RIGHT, BOTTOM, TITLE, LEGEND_LINE = 0.62, 0.12, 0.72, 0.62, 0.2
PANEL = (3.9, 2.7)
GAP = (0.72, 0.85)
IN_A_LINE = 5
LETTERS = 20  # of the caption in an inch


def draw(exhibit: Exhibit, folder: Path) -> list[Path]:
    """Write a figure as PNG and SVG.

    Returns:
        The files.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    name = exhibit.definition.file
    # text stays text, and the same figure gives the same file
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure = _figure(exhibit)
        for suffix, canvas, options in (
            ("png", FigureCanvasAgg, {}),
            ("svg", FigureCanvasSVG, {"metadata": {"Date": None}}),
        ):
            # straight to the canvas: savefig would lay everything out twice
            with whole_file(folder / f"{name}.{suffix}") as temporary:
                getattr(canvas(figure), f"print_{suffix}")(temporary, **options)
    return [folder / f"{name}.png", folder / f"{name}.svg"]


def _figure(exhibit: Exhibit) -> Any:
    from matplotlib.figure import Figure

    panels = exhibit.panels
    labels = list(dict.fromkeys(c.label for p in panels for c in (*p.dense, *p.curves)))
    styles = styles_of(labels)
    columns = min(len(panels), 4 if len(panels) > 2 * 3 else 3)
    lines = math.ceil(len(panels) / columns)
    per_line = max(1, min(len(labels), IN_A_LINE if columns > 1 else 3))
    head = TITLE + LEGEND_LINE * math.ceil(len(labels) / per_line)
    width = LEFT + RIGHT + columns * PANEL[0] + (columns - 1) * GAP[0]
    height = head + BOTTOM + lines * PANEL[1] + (lines - 1) * GAP[1]
    figure = Figure(figsize=(width, height), dpi=110)
    axes = figure.subplots(lines, columns, squeeze=False)
    figure.subplots_adjust(
        left=LEFT / width,
        right=1 - RIGHT / width,
        bottom=BOTTOM / height,
        top=1 - head / height,
        wspace=GAP[0] / PANEL[0],
        hspace=GAP[1] / PANEL[1],
    )
    for place, panel in zip(axes.flat, panels, strict=False):
        _draw_panel(place, panel, styles)
    for place in axes.flat[len(panels) :]:
        place.set_axis_off()
    figure.suptitle(exhibit.definition.title, fontsize=11, y=1 - 0.08 / height, va="top")
    _legend(figure, styles, per_line, 1 - 0.28 / height)
    figure.text(
        0.06 / width, 0.06 / height, _caption(exhibit, width), fontsize=6.5, color="#555555"
    )
    return figure


def _draw_panel(axes: Any, panel: Panel, styles: dict[str, Style]) -> None:
    names = [level for level in panel.levels if isinstance(level, str)]
    for curve in panel.dense:
        style = styles[curve.label]
        for point in curve.points:
            axes.axhline(point.mean, color=style.color, linewidth=1.3, linestyle=DASHES[style.dash])
            if point.std:
                axes.axhspan(point.mean - point.std, point.mean + point.std, color="k", alpha=0.06)
    for curve in panel.curves:
        _draw_curve(axes, curve, panel, styles[curve.label], names)
    axes.set_title(panel.title, fontsize=9)
    axes.set_xlabel(panel.axis.label, fontsize=8.5)
    axes.set_ylabel(panel.measure.label, fontsize=8.5)
    axes.tick_params(labelsize=8)
    # ticks are most of the time a figure takes
    axes.locator_params("y", nbins=5)
    if not names:
        axes.locator_params("x", nbins=7)
    if names:
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.5, len(names) - 0.5)
    elif not any(curve.points for curve in panel.curves):
        axes.set(xticks=[], **({} if any(c.points for c in panel.dense) else {"yticks": []}))
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if panel.refused:
        text = f"{len(panel.refused)} refused: mixed runs"
        axes.text(0.02, 0.02, text, transform=axes.transAxes, fontsize=7, color="#b00020")


def _draw_curve(axes: Any, curve: Curve, panel: Panel, style: Style, names: Sequence[str]) -> None:
    """Draw a curve, broken where a level has no run; hollow where a seed is missing."""

    def places(points: Sequence[Point]) -> list[Any]:
        return [names.index(p.x) if isinstance(p.x, str) else p.x for p in points]

    for part in unbroken(curve, panel.levels):
        means = [p.mean for p in part]
        line = {"color": style.color, "linewidth": 1.6, "linestyle": DASHES[style.dash]}
        if not names:  # kinds have no order, so nothing lies between them
            axes.plot(places(part), means, **line)
        low = [p.mean - (p.std or 0) for p in part]
        high = [p.mean + (p.std or 0) for p in part]
        if len(part) > 1 and low != high and not names:
            axes.fill_between(places(part), low, high, color=style.color, alpha=0.15, linewidth=0)
        elif low != high:
            axes.vlines(places(part), low, high, color=style.color, linewidth=1)
    full = max((len(point.seeds) for c in panel.curves for point in c.points), default=0)
    for fill in (True, False):
        points = [point for point in curve.points if (len(point.seeds) == full) is fill]
        look = {"markerfacecolor": style.color if fill else "white", "markersize": 5}
        if points:
            means = [p.mean for p in points]
            axes.plot(
                places(points), means, style.marker or "o", color=style.color, linestyle="", **look
            )


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


def _legend(figure: Any, styles: dict[str, Style], per_line: int, top: float) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            label=label,
            color=style.color,
            marker=style.marker,
            markersize=5,
            linestyle=DASHES[style.dash],
        )
        for label, style in styles.items()
    ]
    figure.legend(
        handles=handles,
        loc="upper center",
        frameon=False,
        fontsize=8,
        bbox_to_anchor=(0.5, top),
        ncols=per_line,
    )


def _caption(exhibit: Exhibit, width: float) -> str:
    curves = [c for panel in exhibit.panels for c in panel.curves]
    curves = curves or [c for panel in exhibit.panels for c in panel.dense]
    counts = {len(p.seeds) for c in curves for p in c.points}
    seeds = "-".join(map(str, sorted({min(counts), max(counts)}))) if counts else "0"
    missing = sum(len(panel.missing) for panel in exhibit.panels)
    gap = f"; {missing} without all runs (hollow, or a gap)" if missing else ""
    gap += "".join(f"; not run: {text}" for text in exhibit.absent if "sparsit" in text)
    # a single run has neither mean nor deviation
    what = "One seed" if seeds == "1" else f"Mean and standard deviation over {seeds} seeds"
    text = f"{what}{gap}"
    # a number keeps its unit
    return textwrap.fill(text.replace(" %", "\N{NO-BREAK SPACE}%"), round(width * LETTERS))
