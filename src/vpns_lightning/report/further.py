"""Figures of any runs: gain from the prompt, density of layers, overlap, prompts, cost."""

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpns_lightning.base.files import write_text
from vpns_lightning.report.drawing import write_figure
from vpns_lightning.report.groups import groups_of
from vpns_lightning.report.measures import ACCURACY
from vpns_lightning.report.runs import Run
from vpns_lightning.report.series import (
    Series,
    costs,
    densities,
    gains,
    overlaps,
    prompt_norms,
)
from vpns_lightning.report.styles import DASHES, Look, Style, styles_of

# inches of a panel at the size of a screen, with what is around it
WIDTH, HEIGHT, LEGEND_LINE, HEAD = 4.6, 3.4, 0.22, 0.5
LETTER = 0.068
WIDE_PANELS = 3
LEGIBLE = 5  # points of a number
NAME = 6.5  # points that a layer's name needs at least


@dataclass(frozen=True)
class Further:
    """A figure that any runs may have.

    Attributes:
        name: Of its files.
        title: What it shows.
        said: How it is read.
        needs: What runs must have to be in it.
        series: From method to runs, method to what is drawn of it; empty where there is nothing.
        draw: Draws the series on a pair of axes.
        legend: Methods are told apart by their looks.
        wide: One panel in a row, as long as names of layers need.
        wanted: Runs that count at the one sparsity that is drawn; None draws all sparsities.
    """

    name: str
    title: str
    said: str
    needs: str
    series: Callable[[Mapping[str, list[Run]]], Series]
    draw: Callable[[Any, Series, dict[str, Style], Look], None]
    legend: bool = True
    wide: bool = False
    wanted: Callable[[Run], bool] | None = lambda run: True


def draw_further(figure: Further, runs: Sequence[Run], folder: Path, look: Look) -> list[Path]:
    """Write a figure, nothing where no runs allow it.

    Returns:
        The files.
    """
    panels = []
    for group in groups_of(runs):
        title, methods = group.title, group.methods
        if figure.wanted is not None:
            level, methods = group.at_level(figure.wanted)
            title += f", {100 * level:.4g} %"
        series = figure.series(methods)
        panels += [(title, series)] if series else []
    panels = panels[: WIDE_PANELS if figure.wide else None]
    if not panels:
        return []
    files = write_figure(lambda: _sheet(figure, panels, look), folder, figure.name, look)
    if not look.titled:
        caption = folder / f"{figure.name}.caption.txt"
        write_text(caption, f"{figure.title}. {figure.said}\n")
        files.append(caption)
    return files


def _sheet(figure: Further, panels: Sequence[tuple[str, Series]], look: Look) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    scale = look.scale
    labels = list(dict.fromkeys(label for _, series in panels for label in series))
    styles = styles_of(labels)
    wide = 2.0 if figure.wide else 1.0
    width = look.width or scale * WIDTH * wide * min(len(panels), 1 if figure.wide else 3)
    columns = max(1, min(len(panels), round(width / (scale * WIDTH * wide))))
    lines = math.ceil(len(panels) / columns)
    per_line = max(1, int(width / (scale * (0.5 + LETTER * max(map(len, labels))))))
    names = math.ceil(len(labels) / per_line) if figure.legend else 0
    panel_height = min(scale * HEIGHT, width / columns * (0.5 if figure.wide else 0.8))
    panel_height += scale * 0.9 if figure.wide else 0
    if not figure.legend:  # a matrix is square, beside its names
        panel_height = width / columns * 0.85
    height = lines * panel_height + scale * (names * LEGEND_LINE + (HEAD if look.titled else 0.1))
    sheet: Any = Figure(figsize=(width, height), dpi=look.dpi, layout="constrained")
    axes = sheet.subplots(lines, columns, squeeze=False)
    for place, (title, series) in zip(axes.flat, panels, strict=False):
        fitting = textwrap.fill(title, max(12, int(width / columns / (scale * LETTER * 1.2))))
        place.set_title(fitting, fontsize=look.font + 0.5)
        place.tick_params(labelsize=look.font - 0.5)
        place.spines[["top", "right"]].set_visible(False)
        figure.draw(place, series, styles, look)
    for place in axes.flat[len(panels) :]:
        place.set_axis_off()
    if look.titled:
        if not figure.legend:
            sheet.suptitle(figure.title, fontsize=11 * scale)
        small: dict[str, Any] = {"fontsize": 6.5 * scale, "color": "#555555"}
        said = textwrap.fill(figure.said, round(width * 20 / scale))
        sheet.supxlabel(said, x=0.01, ha="left", **small)
    if figure.legend:
        handles = []
        for label in labels:
            style = styles[label]
            line = Line2D([], [], label=label, color=style.color, marker=style.marker or "o")
            line.set(linestyle=DASHES[style.dash], markersize=look.marker, linewidth=look.line)
            handles.append(line)
        where, size = "outside upper center", look.font - 0.5
        legend: dict[str, Any] = {"ncols": per_line, "frameon": False, "fontsize": size}
        if look.titled:  # above the names, which would lie on a title of the figure's own
            legend |= {"title": figure.title, "title_fontsize": 11 * scale}
        sheet.legend(handles=handles, loc=where, **legend)
    return sheet


def _draw_gains(axes: Any, series: Series, styles: dict[str, Style], look: Look) -> None:
    axes.axhline(0, color="#222222", linewidth=0.8)
    for index, (label, pairs) in enumerate(series.items()):
        style = styles[label]
        # intervals of several methods at one sparsity stand beside each other
        shift = 0.5 * (index - (len(series) - 1) / 2)
        xs = [x + shift for x, _ in pairs]
        means = [difference.mean for _, difference in pairs]
        line = {"color": style.color, "linewidth": 0.6 * look.line}
        axes.plot(xs, means, linestyle=DASHES[style.dash], alpha=0.6, **line)
        for x, (_, found) in zip(xs, pairs, strict=True):
            face = style.color if found.low is not None else "white"
            size = {"markersize": look.marker, "markerfacecolor": face}
            axes.plot(x, found.mean, style.marker or "o", color=style.color, **size)
            if found.low is not None:
                axes.vlines(x, found.low, found.high, color=style.color, linewidth=look.line)
    _label(axes, "sparsity (%)", "gain from the prompt (points)", look)


def _draw_densities(axes: Any, series: Series, styles: dict[str, Style], look: Look) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    names = list(dict.fromkeys(name for layers in series.values() for name in layers))
    for label, layers in series.items():
        style = styles[label]
        points = [(names.index(name), value) for name, value in layers.items() if value > 0]
        look_of = {"color": style.color, "marker": style.marker or "o", "alpha": 0.9}
        sizes = {"markersize": 0.8 * look.marker, "linewidth": 0.5 * look.line}
        if points:
            axes.plot(*zip(*points, strict=True), linestyle=DASHES[style.dash], **look_of, **sizes)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    width = 72 * (look.width or 2 * WIDTH) * 0.88
    each = math.ceil(len(names) * NAME / width)  # on a narrow page not every name is legible
    size = min(look.font - 1, 0.95 * width * each / len(names))
    axes.set_xticks(range(0, len(names), each), names[::each], rotation=90, fontsize=size)
    axes.set_xlim(-0.7, len(names) - 0.3)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    _label(axes, "", "weights kept (%)", look)


def _draw_overlaps(axes: Any, series: Series, styles: dict[str, Style], look: Look) -> None:
    names = list(series)
    values = [[series[first][second] for second in names] for first in names]
    picture = axes.imshow(values, vmin=0, vmax=1, cmap="cividis")
    ticks = range(len(names))
    axes.set_xticks(ticks, names, rotation=90, fontsize=look.font - 1)
    axes.set_yticks(ticks, names, fontsize=look.font - 1)
    axes.spines[:].set_visible(False)
    columns = axes.get_subplotspec().get_gridspec().ncols
    width = 72 * axes.figure.get_size_inches()[0] / columns
    size = min(look.font - 1, 0.24 * width / len(names))
    if size < LEGIBLE:
        axes.figure.colorbar(picture, ax=axes, shrink=0.6).ax.tick_params(labelsize=look.font - 1)
        return
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            color = "black" if value > 0.5 else "white"
            place = {"ha": "center", "va": "center"}
            axes.text(
                column, row, f"{value:.2f}".lstrip("0")[:3], fontsize=size, color=color, **place
            )


def _draw_norms(axes: Any, series: Series, styles: dict[str, Style], look: Look) -> None:
    for label, points in series.items():
        style = styles[label]
        marks = {"marker": style.marker or "o", "markersize": 0.8 * look.marker}
        line = {"color": style.color, "linewidth": look.line, "linestyle": DASHES[style.dash]}
        axes.plot(*zip(*points, strict=True), **marks, **line)
    axes.xaxis.get_major_locator().set_params(integer=True)
    _label(axes, "epoch of all stages", "L2 norm of the prompt", look)


def _draw_costs(axes: Any, series: Series, styles: dict[str, Style], look: Look) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    for label, (steps, mean, std) in series.items():
        style = styles[label]
        face = "white" if style.dash else style.color
        size = {"markersize": look.marker * 1.3, "markerfacecolor": face}
        axes.plot(steps, mean, style.marker or "o", color=style.color, **size)
        axes.vlines(steps, mean - std, mean + std, color=style.color, linewidth=0.6 * look.line)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda steps, _: f"{steps:,.0f}")
    low, high = axes.get_xlim()
    axes.set_xlim(low / 1.3, high * 1.3)
    _label(axes, "gradient steps of the whole run", ACCURACY.label, look)


def _label(axes: Any, x: str, y: str, look: Look) -> None:
    axes.set_xlabel(x, fontsize=look.font)
    axes.set_ylabel(y, fontsize=look.font)
    axes.grid(alpha=0.25, linewidth=0.6)


FURTHER = (
    Further(
        "gain",
        "Gain from the prompt",
        "Test accuracy with minus without a prompt, paired by seed; bars are 95 % intervals of "
        "Student's t, hollow marks single pairs.",
        "a method with and without a prompt at equal seeds: VPNs and HYDRA, VPNs w. OMP and OMP",
        gains,
        _draw_gains,
        wanted=None,
    ),
    Further(
        "density",
        "Density of each layer",
        "Mean over seeds; layers with nothing kept have no mark.",
        "pruned runs that state the sparsity of layers",
        densities,
        _draw_densities,
        wide=True,
    ),
    Further(
        "overlap",
        "Overlap of masks",
        "Weights that both methods keep over those that either keeps (IoU), at one seed.",
        "two pruned runs of one network and sparsity with their masks.safetensors",
        overlaps,
        _draw_overlaps,
        legend=False,
    ),
    Further(
        "prompt_norm",
        "Prompts over epochs",
        "Mean over seeds; dotted and dashed lines are variants of a method.",
        "runs with a prompt and their metrics.csv",
        prompt_norms,
        _draw_norms,
        wanted=lambda run: bool(run.record.prompt),
    ),
    Further(
        "accuracy_cost",
        "Accuracy against cost",
        "Means over seeds; bars, where there are several seeds, show how they spread. Hollow marks "
        "are variants of a method.",
        "runs that state their gradient steps",
        costs,
        _draw_costs,
    ),
)
