"""What the further figures draw on a pair of axes."""

import math
import statistics
import textwrap
from itertools import pairwise
from typing import Any

import numpy as np

from vpns_lightning.report.drawing import LETTER
from vpns_lightning.report.measures import ACCURACY
from vpns_lightning.report.series import Series
from vpns_lightning.report.styles import DASHES, Look, Style

LEGIBLE = 5  # points of a number
NAME = 6.5  # points that a layer's name needs at least
SAID = 6  # sparsities that are said each; of more some are
STRONGER = 3  # than that of the median method a prompt may be and is not cut off


def draw_gains(axes: Any, series: Series, styles: dict[str, Style], look: Look) -> None:
    """Draw differences with their intervals, methods beside each other at each sparsity."""
    axes.axhline(0, color="#222222", linewidth=0.8)
    steps = [b[0] - a[0] for pairs in series.values() for a, b in pairwise(pairs)]
    # intervals of several methods at one sparsity stand beside each other, nearer to it than to
    # the next
    width = min(0.5, 0.6 * min(steps, default=1) / len(series))
    for index, (label, pairs) in enumerate(series.items()):
        style = styles[label]
        shift = width * (index - (len(series) - 1) / 2)
        xs = [x + shift for x, _ in pairs]
        means = [difference.mean for _, difference in pairs]
        line = {"color": style.color, "linewidth": 0.6 * look.line}
        axes.plot(xs, means, linestyle=DASHES[style.dash], alpha=0.6, **line)
        for x, (_, found) in zip(xs, pairs, strict=True):
            face = style.color if found.low is not None else "white"
            size = {"markersize": look.marker, "markerfacecolor": face}
            axes.plot(x, found.mean, style.marker, color=style.color, **size)
            if found.low is not None:
                axes.vlines(x, found.low, found.high, color=style.color, linewidth=look.line)
    sparsities = [x for pairs in series.values() for x, _ in pairs]
    if not steps:
        axes.set_xlim(min(sparsities) - 1, max(sparsities) + 1)
    places = sorted({round(x, 1) for x in sparsities})
    if len(places) <= SAID:
        axes.set_xticks(places)
    axes.xaxis.set_major_formatter(lambda sparsity, _: f"{sparsity:.4g}")
    _label(axes, "sparsity (%)", "gain from the prompt (points)", look)


def draw_densities(axes: Any, series: Series, styles: dict[str, Style], look: Look) -> None:
    """Draw a line of densities for each method, a place for each layer."""
    from matplotlib.ticker import LogLocator, NullLocator

    names = list(dict.fromkeys(name for layers in series.values() for name in layers))
    for label, layers in series.items():
        style = styles[label]
        points = [(names.index(name), value) for name, value in layers.items() if value > 0]
        look_of = {"color": style.color, "marker": style.marker, "alpha": 0.9}
        sizes = {"markersize": 0.8 * look.marker, "linewidth": 0.5 * look.line}
        if points:
            axes.plot(*zip(*points, strict=True), linestyle=DASHES[style.dash], **look_of, **sizes)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    width = 72 * axes.figure.get_size_inches()[0] * 0.88
    each = math.ceil(len(names) * NAME / width)  # on a narrow page not every name is legible
    size = min(look.font - 1, 0.95 * width * each / len(names))
    axes.set_xticks(range(0, len(names), each), names[::each], rotation=90, fontsize=size)
    axes.set_xlim(-0.7, len(names) - 0.3)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    _label(axes, "", "weights kept (%)", look)


def draw_overlaps(axes: Any, series: Series, styles: dict[str, Style], look: Look) -> None:
    """Draw the matrix of overlaps, numbers in it where they are legible."""
    names = list(series)
    values = [[series[first][second] for second in names] for first in names]
    picture = axes.imshow(values, vmin=0, vmax=1, cmap="cividis")
    axes.spines[:].set_visible(False)
    columns = axes.get_subplotspec().get_gridspec().ncols
    width = 72 * axes.figure.get_size_inches()[0] / columns
    # beside names and the bar of colours; names of one line each do not touch
    side = width - 72 * look.scale * (0.8 + LETTER * max(map(len, names)))
    size = max(LEGIBLE, min(look.font - 1, 0.95 * side / len(names)))
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)
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


def draw_norms(axes: Any, series: Series, styles: dict[str, Style], look: Look) -> None:
    """Draw the norm of each method's prompt over the epochs."""
    for label, points in series.items():
        style = styles[label]
        marks = {"marker": style.marker, "markersize": 0.8 * look.marker}
        line = {"color": style.color, "linewidth": look.line, "linestyle": DASHES[style.dash]}
        axes.plot(*zip(*points, strict=True), **marks, **line)
    axes.xaxis.get_major_locator().set_params(integer=True)
    _label(axes, "epoch of all stages", "L2 norm of the prompt", look)


def draw_prompts(axes: Any, series: Series, styles: dict[str, Style], look: Look) -> None:
    """Draw prompts, a row a method and a column a moment, all of them on one scale."""
    moments = moments_of(series)
    pictures = [picture for prompts in series.values() for picture in prompts.values()]
    side = max(picture.shape[-1] for picture in pictures)
    largest, cut = _scale(series)
    step = side + max(1, side // 12)
    rows, columns = len(series), len(moments)
    sheet = np.ones((rows * step, columns * step, 3))
    for row, prompts in enumerate(series.values()):
        for moment, picture in prompts.items():
            top, left = row * step, moments.index(moment) * step
            shown = 0.5 + picture.astype(np.float64).transpose(1, 2, 0) / (2 * largest)
            high, wide = shown.shape[:2]
            sheet[top : top + high, left : left + wide] = shown.clip(0, 1)
    axes.imshow(sheet, interpolation="nearest")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_yticks([row * step + side / 2 for row in range(rows)], list(series))
    # a stage is said once, above its first picture
    first = {
        stage: moments.index(next(m for m in moments if m[0] == stage)) for stage, _ in moments
    }
    names = [
        f"{stage}\n{epochs}" if first[stage] == place else str(epochs)
        for place, (stage, epochs) in enumerate(moments)
    ]
    axes.set_xticks([column * step + side / 2 for column in range(columns)], names)
    axes.xaxis.tick_top()
    said = f"grey is 0, full colour \u00b1{largest:.3g} of a pixel's range{cut}"
    said += f": shown \u00d7 {0.5 / largest:.3g}"
    width = axes.figure.get_size_inches()[0] / look.scale - LETTER * max(map(len, series))
    axes.set_xlabel(textwrap.fill(said, int(width / LETTER)), fontsize=look.font - 1)


def _scale(series: Series) -> tuple[float, str]:
    """Return the value of full colour, and a remark where some are stronger than that.

    One method's strong prompt does not hide those of all others.
    """
    strongest = [max(float(np.abs(p).max()) for p in each.values()) for each in series.values()]
    largest, limit = max(strongest), STRONGER * statistics.median(strongest)
    if largest > limit > 0:
        return limit, ", what is stronger cut off"
    return largest or 0.5, ""


def moments_of(series: Series) -> list[Any]:
    """Return the moments of all prompts in the order of stages and epochs."""
    moments = dict.fromkeys(moment for prompts in series.values() for moment in prompts)
    stages = list(dict.fromkeys(stage for stage, _ in moments))
    return sorted(moments, key=lambda moment: (stages.index(moment[0]), moment[1]))


def draw_costs(axes: Any, series: Series, styles: dict[str, Style], look: Look) -> None:
    """Draw a mark for each method, steps on a logarithmic axis."""
    from matplotlib.ticker import LogLocator, NullLocator

    for label, (steps, mean, std) in series.items():
        style = styles[label]
        face = "white" if style.dash else style.color
        size = {"markersize": look.marker * 1.3, "markerfacecolor": face}
        axes.plot(steps, mean, style.marker, color=style.color, **size)
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
