"""Figures of any runs: gain from the prompt, density of layers, overlap, prompts, cost."""

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpns_lightning.base.files import write_text
from vpns_lightning.report.drawing import write_figure
from vpns_lightning.report.further_marks import (
    draw_costs,
    draw_densities,
    draw_gains,
    draw_norms,
    draw_overlaps,
)
from vpns_lightning.report.groups import groups_of
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


FURTHER = (
    Further(
        "gain",
        "Gain from the prompt",
        "Test accuracy with minus without a prompt, paired by seed; bars are 95 % intervals of "
        "Student's t, hollow marks single pairs.",
        "a method with and without a prompt at equal seeds: VPNs and HYDRA, VPNs w. OMP and OMP",
        gains,
        draw_gains,
        wanted=None,
    ),
    Further(
        "density",
        "Density of each layer",
        "Mean over seeds; layers with nothing kept have no mark.",
        "pruned runs that state the sparsity of layers",
        densities,
        draw_densities,
        wide=True,
    ),
    Further(
        "overlap",
        "Overlap of masks",
        "Weights that both methods keep over those that either keeps (IoU), at one seed.",
        "two pruned runs of one network and sparsity with their masks.safetensors",
        overlaps,
        draw_overlaps,
        legend=False,
    ),
    Further(
        "prompt_norm",
        "Prompts over epochs",
        "Mean over seeds; dotted and dashed lines are variants of a method.",
        "runs with a prompt and their metrics.csv",
        prompt_norms,
        draw_norms,
        wanted=lambda run: bool(run.record.prompt),
    ),
    Further(
        "accuracy_cost",
        "Accuracy against cost",
        "Means over seeds; bars, where there are several seeds, show how they spread. Hollow marks "
        "are variants of a method.",
        "runs that state their gradient steps",
        costs,
        draw_costs,
    ),
)
