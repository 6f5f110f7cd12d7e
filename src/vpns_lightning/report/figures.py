"""Figures as PNG, SVG and PDF: a fixed look for each method, bands, the dense line."""

import math
import textwrap
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vpns_lightning.base.files import write_text
from vpns_lightning.report.drawing import (
    HANDLE,
    draw_curve,
    draw_dots,
    legend_handle,
    unbroken,
    write_figure,
)
from vpns_lightning.report.panels import Exhibit
from vpns_lightning.report.plots import Plot, common_title, plots_of, stand_close
from vpns_lightning.report.styles import DASHES, LOOKS, Look, Style, styles_of

# inches around the panels at the size of a screen: what stands there is of fixed size
LEFT, RIGHT, BOTTOM, TITLE, LEGEND_LINE = 0.62, 0.12, 0.72, 0.36, 0.2
PANEL = (3.9, 2.7)
GAP = (0.72, 0.85)
NARROWEST = 1.5  # panel beside another
CLOSE_LEFT, CLOSE_GAP, CLOSEST = 0.45, (0.4, 0.62), 1.1  # of families in a paper
IN_A_LINE = 5
LETTER = 0.068  # inches of a letter
LINE = 0.14  # inches of a line of a title
LETTERS = 20  # of the caption in an inch


def draw(exhibit: Exhibit, folder: Path, look: Look = LOOKS["screen"]) -> list[Path]:
    """Write a figure in the formats asked for.

    Returns:
        The files.
    """
    name, title = exhibit.definition.file, exhibit.definition.title
    plots = plots_of(exhibit.panels)
    where = common_title(exhibit) if stand_close(plots, look) else ""
    if where:  # said once, not above each of many small panels
        title = f"{title}, {where}"
        plots = [replace(plot, named=False) for plot in plots]
    files = write_figure(lambda: _figure(exhibit, plots, title, look), folder, name, look)
    if not look.titled:
        caption = f"{title}. {_said(exhibit)}."
        write_text(folder / f"{name}.caption.txt", caption + "\n")
        files.append(folder / f"{name}.caption.txt")
    return files


def _figure(exhibit: Exhibit, plots: Sequence[Plot], heading: str, look: Look) -> Any:
    from matplotlib.figure import Figure

    scale, close = look.scale, stand_close(plots, look)
    together = [plot for plot in plots if close or (not plot.focus and not plot.dots)]
    curves = [c for plot in together for c in (*plot.panel.dense, *plot.panel.curves)]
    curves += [c for plot in plots if plot.focus for c in plot.panel.dense]
    labels = list(dict.fromkeys(curve.label for curve in curves))
    styles = styles_of(labels)
    rows = [[*p.panel.curves, *p.panel.dense] for p in plots if p.dots]
    names = max((len(curve.label) for each in rows for curve in each), default=0)
    left = scale * max(LEFT, 0.2 + LETTER * min(names, 40))
    gap = (scale * max(GAP[0], 0.2 + LETTER * min(names, 40)), scale * GAP[1])
    columns = min(len(plots), 4 if len(plots) > 2 * 3 else 3)
    width = left + scale * RIGHT + columns * PANEL[0] * scale + (columns - 1) * gap[0]
    if close:
        left, gap = scale * CLOSE_LEFT, (scale * CLOSE_GAP[0], scale * CLOSE_GAP[1])
    if look.width is not None:
        width = look.width
        inner = width - left - scale * RIGHT + gap[0]
        narrowest = scale * (CLOSEST if close else NARROWEST)
        columns = max(1, min(len(plots), int(inner / (narrowest + gap[0]))))
    panel_width = (width - left - scale * RIGHT - (columns - 1) * gap[0]) / columns
    most = max(map(len, rows), default=0)
    panel_height = max(panel_width * PANEL[1] / PANEL[0], 0.19 * scale * most)
    panel_height = max(panel_height, scale * CLOSEST) if close else panel_height
    lines = math.ceil(len(plots) / columns)
    per_line = _per_line(labels, width, scale, columns if look.width is None else None)
    title = TITLE * scale if look.titled else 0.05 * scale
    letters = int(panel_width / (LETTER * scale))
    # lines of a title besides one
    more = max(len(textwrap.wrap(plot.title, letters)) for plot in plots) if close else 0
    gap = gap[0], gap[1] + LINE * scale * more
    title += (0.26 + LINE * more) * scale  # of the topmost panels
    head = title + LEGEND_LINE * scale * math.ceil(len(labels) / per_line)
    foot = scale * (BOTTOM if look.titled else BOTTOM - 0.24)
    height = head + foot + lines * panel_height + (lines - 1) * gap[1]
    figure = Figure(figsize=(width, height), dpi=look.dpi)
    axes = figure.subplots(lines, columns, squeeze=False)
    figure.subplots_adjust(
        left=left / width,
        right=1 - scale * RIGHT / width,
        bottom=foot / height,
        top=1 - head / height,
        wspace=gap[0] / panel_width,
        hspace=gap[1] / panel_height,
    )
    for place, plot in zip(axes.flat, plots, strict=False):
        _draw_plot(place, plot, styles, look)
        if close:
            _draw_closer(place, plot, letters, look)
    for place in axes.flat[len(plots) :]:
        place.set_axis_off()
    _share_heights(list(axes.flat), plots)
    top = 0.05 * scale
    if look.titled:
        figure.suptitle(heading, fontsize=11 * scale, y=1 - 0.08 * scale / height, va="top")
        caption = _caption(exhibit, width, scale)
        place = (0.06 / width, 0.06 / height)
        figure.text(*place, caption, fontsize=6.5 * scale, color="#555555")
        top = 0.28 * scale
    if labels:
        _legend(figure, styles, per_line, 1 - top / height, look)
    return figure


def _draw_closer(axes: Any, plot: Plot, letters: int, look: Look) -> None:
    """Say above the axes what else stands beside them, and leave the legend to the figure."""
    axes.get_legend().remove()
    lines = [*textwrap.wrap(plot.title, letters), plot.panel.measure.label]
    axes.set_title("\n".join(lines), fontsize=look.font - 0.5)
    axes.set_ylabel("")


def _per_line(labels: Sequence[str], width: float, scale: float, columns: int | None) -> int:
    """Return how many names fit beside each other above the panels."""
    if columns is not None:
        return max(1, min(len(labels), IN_A_LINE if columns > 1 else 3))
    longest = max(map(len, labels), default=1)
    return max(1, min(len(labels), int(width / (scale * (0.45 + LETTER * longest)))))


def _share_heights(axes: Sequence[Any], plots: Sequence[Plot]) -> None:
    """Give the multiples of one panel the same axis from bottom to top."""
    groups: dict[int, list[Any]] = defaultdict(list)
    for place, plot in zip(axes, plots, strict=False):
        if plot.focus:
            groups[id(plot.panel)].append(place)
    for places in groups.values():
        low, high = zip(*(place.get_ylim() for place in places), strict=True)
        for place in places:
            place.set_ylim(min(low), max(high))


def _draw_plot(axes: Any, plot: Plot, styles: dict[str, Style], look: Look) -> None:
    panel, font = plot.panel, look.font
    # names of methods take the place left of the axes
    where = "right" if plot.dots else "center"
    axes.set_title(plot.title, fontsize=font + 0.5, loc=where)
    axes.tick_params(labelsize=font - 0.5)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if panel.refused:
        text = f"{len(panel.refused)} refused: mixed runs"
        place = axes.transAxes
        axes.text(0.02, 0.02, text, transform=place, fontsize=font - 1.5, color="#b00020")
    if plot.dots:
        draw_dots(axes, panel, look)
        return
    names = [level for level in panel.levels if isinstance(level, str)]
    for curve in panel.dense:
        style = styles[curve.label]
        for point in curve.points:
            line = {"color": style.color, "linewidth": 0.8 * look.line}
            axes.axhline(point.mean, linestyle=DASHES[style.dash], **line)
            if point.std:
                axes.axhspan(point.mean - point.std, point.mean + point.std, color="k", alpha=0.06)
    shown = [curve for curve in panel.curves if not plot.focus or curve.label in plot.focus]
    if plot.focus:
        for curve in panel.curves:
            if curve not in shown:
                for part in unbroken(curve, panel.levels):
                    line = {"color": "#d0d0d0", "linewidth": 0.5 * look.line}
                    axes.plot([p.x for p in part], [p.mean for p in part], zorder=1, **line)
        styles = styles if set(plot.focus) <= styles.keys() else styles_of(list(plot.focus))
    for curve in shown:
        draw_curve(axes, curve, panel, styles[curve.label], look)
    axes.set_xlabel(panel.axis.label, fontsize=font)
    axes.set_ylabel(panel.measure.label, fontsize=font)
    # ticks are most of the time a figure takes
    axes.locator_params("y", nbins=5)
    if not names:
        axes.locator_params("x", nbins=7 if look.width is None else 5)
    if names:
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.5, len(names) - 0.5)
    elif not any(curve.points for curve in panel.curves):
        axes.set(xticks=[], **({} if any(c.points for c in panel.dense) else {"yticks": []}))
    if plot.focus:
        handles = [legend_handle(label, styles[label], look) for label in plot.focus]
        room = {"fontsize": font - 1.5, "frameon": False, "handlelength": HANDLE}
        axes.legend(handles=handles, loc="best", **room)


def _legend(figure: Any, styles: dict[str, Style], per_line: int, top: float, look: Look) -> None:
    figure.legend(
        handles=[legend_handle(label, style, look) for label, style in styles.items()],
        loc="upper center",
        frameon=False,
        fontsize=look.font - 0.5,
        bbox_to_anchor=(0.5, top),
        ncols=per_line,
        handlelength=HANDLE,
    )


def _said(exhibit: Exhibit) -> str:
    """Return what marks and bands mean, and what is missing."""
    curves = [c for panel in exhibit.panels for c in panel.curves]
    curves = curves or [c for panel in exhibit.panels for c in panel.dense]
    counts = {len(p.seeds) for c in curves for p in c.points}
    seeds = "-".join(map(str, sorted({min(counts), max(counts)}))) if counts else "0"
    missing = sum(len(panel.missing) for panel in exhibit.panels)
    gap = f"; {missing} without all runs (hollow, or a gap)" if missing else ""
    gap += "".join(f"; not run: {text}" for text in exhibit.absent if "sparsit" in text)
    # a single run has neither mean nor deviation
    what = "One seed" if seeds == "1" else f"Mean and standard deviation over {seeds} seeds"
    return f"{what}{gap}"


def _caption(exhibit: Exhibit, width: float, scale: float) -> str:
    # a number keeps its unit
    text = _said(exhibit).replace(" %", "\N{NO-BREAK SPACE}%")
    return textwrap.fill(text, round(width * LETTERS / scale))
