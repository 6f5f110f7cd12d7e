"""Runs of one data set, backbone and grid, by method: what the further figures compare."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from vpns_lightning.report.comparability import mixture
from vpns_lightning.report.definitions import BASELINES
from vpns_lightning.report.membership import further_axes
from vpns_lightning.report.runs import Run

MOST_GROUPS = 6  # panels of one figure
MOST_METHODS = 12  # in one panel
ORDER = ("VPNs", *BASELINES)


@dataclass(frozen=True)
class Group:
    """Runs that one panel compares.

    Attributes:
        title: Data set, backbone and what else sets it apart.
        methods: Name to runs, in the paper's order.
    """

    title: str
    methods: dict[str, list[Run]]

    def at_level(self, wanted: Callable[[Run], bool]) -> tuple[float, dict[str, list[Run]]]:
        """Return the sparsity that most methods have runs of, the highest of these, and the runs.

        Methods whose runs there must not be mixed are left out, and what comes after the first
        :data:`MOST_METHODS`.

        Args:
            wanted: Whether a run counts.
        """
        levels: dict[float, dict[str, list[Run]]] = defaultdict(dict)
        for label, runs in self.methods.items():
            for run in runs:
                if not run.dense and wanted(run):
                    methods = levels[run.record.sparsity_requested]
                    methods.setdefault(label, []).append(run)
        if not levels:
            return 0.0, {}
        level = max(levels, key=lambda asked: (len(levels[asked]), asked))
        pure = {label: runs for label, runs in levels[level].items() if mixture(runs) is None}
        return level, dict(list(pure.items())[:MOST_METHODS])


def groups_of(runs: Iterable[Run]) -> list[Group]:
    """Return the groups, those with most runs first; no more than a figure holds."""
    found: dict[tuple[str, str, str, str], dict[str, list[Run]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for run in runs:
        place = (run.dataset, run.record.backbone, further_axes(run), run.grid)
        found[place][run.grid_label].append(run)
    grids = {place[3] for place in found}
    groups = []
    for place, methods in found.items():
        parts: tuple[str, ...] = place if len(grids) > 1 else place[:3]
        names = sorted(methods, key=lambda name: (_place(ORDER, name), name))
        title = ", ".join(part for part in parts if part)
        groups.append(Group(title, {name: methods[name] for name in names}))
    groups.sort(key=lambda group: (-sum(map(len, group.methods.values())), group.title))
    return groups[:MOST_GROUPS]


def _place(order: Sequence[str], name: str) -> int:
    return order.index(name) if name in order else len(order)
