"""Figures as PNG, SVG and PDF: a fixed look for each method, bands, the dense line."""

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
from vpns_lightning.report.sheet import lay_out
from vpns_lightning.report.styles import DASHES, LOOKS, Look, Style, styles_of

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
    sheet = lay_out(plots, labels, look)
    width, height = sheet.width, sheet.height
    figure = Figure(figsize=(width, height), dpi=look.dpi)
    axes = figure.subplots(sheet.rows, sheet.columns, squeeze=False)
    figure.subplots_adjust(**sheet.margins())
    for place, plot in zip(axes.flat, plots, strict=False):
        _draw_plot(place, plot, styles, look)
        if close:
            _draw_closer(place, plot, sheet.letters, look)
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
        _legend(figure, styles, sheet.names, 1 - top / height, look)
    return figure


def _draw_closer(axes: Any, plot: Plot, letters: int, look: Look) -> None:
    """Say above the axes what else stands beside them, and leave the legend to the figure."""
    axes.get_legend().remove()
    lines = [*textwrap.wrap(plot.title, letters), plot.panel.measure.label]
    axes.set_title("\n".join(lines), fontsize=look.font - 0.5)
    axes.set_ylabel("")


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
