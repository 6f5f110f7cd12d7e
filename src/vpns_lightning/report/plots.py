"""Which pairs of axes a figure has: one a panel, or one a family of methods."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from vpns_lightning.report.panels import Exhibit, Panel
from vpns_lightning.report.styles import Look, family_of

MOST = 9  # curves in one panel; more are shown family by family
LEVELS_OF_CURVES = 2  # a single level has no curve


@dataclass(frozen=True)
class Plot:
    """One pair of axes of a picture.

    Attributes:
        panel: What is drawn.
        focus: Labels drawn before all others, which are grey; empty for all alike.
        dots: One line a method, for what varies nothing else.
        named: The panel's name stands above it.
    """

    panel: Panel
    focus: tuple[str, ...] = ()
    dots: bool = False
    named: bool = True

    @property
    def title(self) -> str:
        """Return what sets the panel apart, as far as that is not said for all of them."""
        kinds = " and ".join(dict.fromkeys(map(family_of, self.focus)))
        where = self.panel.title if self.named or not kinds else ""
        return ": ".join(filter(None, [where, kinds]))


def plots_of(panels: Sequence[Panel]) -> list[Plot]:
    """Return the pairs of axes for some panels, in their order."""
    plots = []
    for panel in panels:
        curves = [curve for curve in panel.curves if curve.points]
        levels = {point.level for curve in curves for point in curve.points}
        if len(levels) < LEVELS_OF_CURVES and len(curves) > LEVELS_OF_CURVES:
            plots.append(Plot(panel, dots=True))
        elif len(curves) <= MOST:
            plots.append(Plot(panel))
        else:
            families: dict[str, list[str]] = defaultdict(list)
            for curve in curves:
                family = family_of(curve.label)
                # HYDRA with a prompt is VPNs
                families["HYDRA" if family == "VPNs" else family].append(curve.label)
            plots += [Plot(panel, tuple(labels)) for labels in families.values()]
    return plots


def stand_close(plots: Sequence[Plot], look: Look) -> bool:
    """Return whether families stand close together, below one legend: where room is short."""
    return look.width is not None and all(plot.focus for plot in plots)


def common_title(exhibit: Exhibit) -> str:
    """Return what all panels have in common; empty where they differ."""
    titles = {panel.title for panel in exhibit.panels}
    return titles.pop() if len(titles) == 1 else ""
