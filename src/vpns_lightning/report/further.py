"""Figures of any runs: gain from the prompt, density of layers, overlap, prompts, cost."""

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpns_lightning.base.files import write_text
from vpns_lightning.report.drawing import HANDLE, LETTER, legend_handle, write_figure
from vpns_lightning.report.further_marks import (
    draw_costs,
    draw_densities,
    draw_gains,
    draw_norms,
    draw_overlaps,
    draw_prompts,
    moments_of,
)
from vpns_lightning.report.groups import groups_of
from vpns_lightning.report.panels import FurtherDrawn
from vpns_lightning.report.runs import Run
from vpns_lightning.report.series import (
    Series,
    costs,
    densities,
    gains,
    overlaps,
    prompt_norms,
    prompts,
)
from vpns_lightning.report.styles import Look, Style, styles_of
from vpns_lightning.runs.folder import PROMPTS

# inches of a panel at the size of a screen, with what is around it
WIDTH, HEIGHT, LEGEND_LINE, HEAD = 4.6, 3.4, 0.22, 0.5
WIDE_PANELS = 3


def _curve_height(series: Series, width: float, scale: float) -> float:
    return min(scale * HEIGHT, 0.8 * width)


def _layers_height(series: Series, width: float, scale: float) -> float:
    return min(scale * HEIGHT, 0.5 * width) + 0.9 * scale  # of the names


def _matrix_height(series: Series, width: float, scale: float) -> float:
    return 0.85 * width  # it is square, beside its names


def _strip_height(series: Series, width: float, scale: float) -> float:
    room = width - scale * (0.4 + LETTER * max(map(len, series)))
    side = min(room / len(moments_of(series)), scale)
    lines = sum(math.ceil(letters * LETTER * scale / room) for letters in (60, 90))
    return len(series) * side + scale * (0.5 + 0.15 * lines)  # with title and scale


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
        height: From what is drawn, the width of a panel and the scale of the look to its height.
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
    height: Callable[[Series, float, float], float] = _curve_height
    wanted: Callable[[Run], bool] | None = lambda run: True


def draw_further(
    figure: Further, runs: Sequence[Run], folder: Path, look: Look
) -> FurtherDrawn | None:
    """Write a figure; None where no runs allow it."""
    panels = []
    for group in groups_of(runs):
        title, methods = group.title, group.methods
        if figure.wanted is not None:
            level, methods = group.at_level(figure.wanted)
            title += f", {100 * level:.4g} %"
            every = group.count(level, figure.wanted)
            title += f", {len(methods)} of {every} methods" if len(methods) < every else ""
        series = figure.series(methods)
        panels += [(title, series)] if series else []
    panels = panels[: WIDE_PANELS if figure.wide else None]
    if not panels:
        return None
    files = write_figure(lambda: _sheet(figure, panels, look), folder, figure.name, look)
    if not look.titled:
        caption = folder / f"{figure.name}.caption.txt"
        write_text(caption, f"{figure.title}. {figure.said}\n")
        files.append(caption)
    titles = tuple(title for title, _ in panels)
    return FurtherDrawn(figure.name, figure.title, figure.said, titles, tuple(files), figure.wide)


def unseen_prompts(runs: Sequence[Run]) -> str:
    """Return why prompts of some runs are not shown, empty where all are."""
    learned = [run for run in runs if run.record.prompt and not run.record.imported]
    count = sum(not run.path.with_name(PROMPTS).is_file() for run in learned)
    if not count:
        return ""
    return (
        f"prompts: {count} of {len(learned)} runs with a prompt have no {PROMPTS}, which 0.1.0 did "
        "not write; prompt_norm shows the size of theirs"
    )


def _sheet(figure: Further, panels: Sequence[tuple[str, Series]], look: Look) -> Any:
    from matplotlib.figure import Figure

    scale = look.scale
    labels = list(dict.fromkeys(label for _, series in panels for label in series))
    styles = {
        label: style._replace(marker=style.marker or "o")
        for label, style in styles_of(labels).items()
    }
    wide = 2.0 if figure.wide else 1.0
    width = look.width or scale * WIDTH * wide * min(len(panels), 1 if figure.wide else 3)
    columns = max(1, min(len(panels), round(width / (scale * WIDTH * wide))))
    lines = math.ceil(len(panels) / columns)
    per_line = max(1, int(width / (scale * (0.6 + LETTER * max(map(len, labels))))))
    names = math.ceil(len(labels) / per_line) if figure.legend else 0
    heights = [figure.height(series, width / columns, scale) for _, series in panels]
    heights = [max(heights[line * columns : (line + 1) * columns]) for line in range(lines)]
    height = sum(heights) + scale * (names * LEGEND_LINE + (HEAD if look.titled else 0.1))
    sheet: Any = Figure(figsize=(width, height), dpi=look.dpi, layout="constrained")
    axes = sheet.subplots(lines, columns, squeeze=False, height_ratios=heights)
    for place, (title, series) in zip(axes.flat, panels, strict=False):
        # names at the left of a matrix or a strip take room from it and from its title
        beside = 0 if figure.legend else 0.4 + LETTER * max(map(len, series))
        room = width / columns / scale - beside
        fitting = textwrap.fill(title, max(12, int(room / (LETTER * 1.2))))
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
        handles = [legend_handle(label, style, look) for label, style in styles.items()]
        where, size = "outside upper center", look.font - 0.5
        legend: dict[str, Any] = {"ncols": per_line, "frameon": False, "fontsize": size}
        legend["handlelength"] = HANDLE
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
        height=_layers_height,
    ),
    Further(
        "overlap",
        "Overlap of masks",
        "Weights that both methods keep over those that either keeps (IoU), at one seed.",
        "two pruned runs of one network and sparsity with their masks.safetensors",
        overlaps,
        draw_overlaps,
        legend=False,
        height=_matrix_height,
    ),
    Further(
        "prompts",
        "Prompts while they are learned",
        "What is added to an image after so many epochs of each stage, at one seed; all of a "
        "panel on one scale.",
        f"runs with a prompt and their {PROMPTS}, which 0.1.0 did not write",
        prompts,
        draw_prompts,
        legend=False,
        wide=True,
        height=_strip_height,
        wanted=lambda run: bool(run.record.prompt),
    ),
    Further(
        "prompt_norm",
        "Norm of the prompt over epochs",
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
