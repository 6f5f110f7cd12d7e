"""How large a figure is, and where its panels, names and words stand on it."""

import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from vpns_lightning.report.drawing import LETTER
from vpns_lightning.report.plots import Plot, stand_close
from vpns_lightning.report.styles import Look

# inches around the panels at the size of a screen: what stands there is of fixed size
LEFT, RIGHT, BOTTOM, TITLE, LEGEND_LINE = 0.62, 0.12, 0.72, 0.36, 0.2
PANEL = (3.9, 2.7)
GAP = (0.72, 0.85)
NARROWEST = 1.5  # panel beside another
CLOSE_LEFT, CLOSE_GAP, CLOSEST = 0.45, (0.4, 0.62), 1.1  # of families in a paper
IN_A_LINE = 5
LINE = 0.14  # inches of a line of a title
ROW = 0.19  # inches of a method's dots


@dataclass(frozen=True)
class Sheet:
    """A figure's measures, in inches.

    Attributes:
        width, height: Of the figure.
        rows, columns: Of its panels.
        panel: Width and height of a panel.
        gap: Between panels beside and below each other.
        left, right, head, foot: Around all panels.
        names: How many names of the legend stand in a line.
        letters: How many letters of a title stand in a line above a panel.
    """

    width: float
    height: float
    rows: int
    columns: int
    panel: tuple[float, float]
    gap: tuple[float, float]
    left: float
    right: float
    head: float
    foot: float
    names: int
    letters: int

    def margins(self) -> dict[str, float]:
        """Return what ``Figure.subplots_adjust`` takes."""
        return {
            "left": self.left / self.width,
            "right": 1 - self.right / self.width,
            "bottom": self.foot / self.height,
            "top": 1 - self.head / self.height,
            "wspace": self.gap[0] / self.panel[0],
            "hspace": self.gap[1] / self.panel[1],
        }


def lay_out(plots: Sequence[Plot], labels: Sequence[str], look: Look) -> Sheet:
    """Return the measures of a figure of these panels with a legend of these names."""
    scale, close = look.scale, stand_close(plots, look)
    # names of methods stand left of a panel of dots
    rows = [[*p.panel.curves, *p.panel.dense] for p in plots if p.dots]
    longest = max((len(curve.label) for each in rows for curve in each), default=0)
    beside = 0.2 + LETTER * min(longest, 40)
    left = scale * (CLOSE_LEFT if close else max(LEFT, beside))
    gap = scale * (CLOSE_GAP[0] if close else max(GAP[0], beside))
    right = scale * RIGHT
    columns = _columns(plots, 4 if len(plots) > 2 * 3 else 3)
    if look.width is None:
        width = left + right + columns * PANEL[0] * scale + (columns - 1) * gap
    else:
        width = look.width
        narrowest = scale * (CLOSEST if close else NARROWEST)
        columns = _columns(plots, int((width - left - right + gap) / (narrowest + gap)))
    panel_width = (width - left - right - (columns - 1) * gap) / columns
    most = max(map(len, rows), default=0)
    panel_height = max(panel_width * PANEL[1] / PANEL[0], ROW * scale * most)
    panel_height = max(panel_height, scale * CLOSEST) if close else panel_height
    letters = int(panel_width / (LETTER * scale))
    # lines of a title besides one
    more = max(len(textwrap.wrap(plot.title, letters)) for plot in plots) if close else 0
    below = scale * (CLOSE_GAP[1] if close else GAP[1]) + LINE * scale * more
    title = TITLE * scale if look.titled else 0.05 * scale
    title += (0.26 + LINE * more) * scale  # of the topmost panels
    names = _names(labels, width, scale, columns if look.width is None else None)
    head = title + LEGEND_LINE * scale * math.ceil(len(labels) / names)
    foot = scale * (BOTTOM if look.titled else BOTTOM - 0.24)
    lines = math.ceil(len(plots) / columns)
    return Sheet(
        width=width,
        height=head + foot + lines * panel_height + (lines - 1) * below,
        rows=lines,
        columns=columns,
        panel=(panel_width, panel_height),
        gap=(gap, below),
        left=left,
        right=right,
        head=head,
        foot=foot,
        names=names,
        letters=letters,
    )


def _columns(plots: Sequence[Plot], most: int) -> int:
    """Return how many panels stand in a row: all of one data set where as many of each fit."""
    counts = Counter(plot.panel.title for plot in plots)
    each = counts[plots[0].panel.title]
    if len(counts) > 1 and set(counts.values()) == {each} and each <= most:
        most -= most % each
    return max(1, min(len(plots), most))


def _names(labels: Sequence[str], width: float, scale: float, columns: int | None) -> int:
    """Return how many names fit beside each other above the panels."""
    if columns is not None:
        return max(1, min(len(labels), IN_A_LINE if columns > 1 else 3))
    longest = max(map(len, labels), default=1)
    return max(1, min(len(labels), int(width / (scale * (0.45 + LETTER * longest)))))
