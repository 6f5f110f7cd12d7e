"""Runs of one data set, backbone and grid, by method: what the further figures compare."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest

from vpns_lightning.report.comparability import mixture
from vpns_lightning.report.definitions import BASELINES
from vpns_lightning.report.membership import further_axes
from vpns_lightning.report.runs import Run
from vpns_lightning.report.styles import family_of

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

        Methods whose runs there must not be mixed are left out. Of more than :data:`MOST_METHODS`
        each kind's own and then its best variants are taken by turns.

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
        return level, pure if len(pure) <= MOST_METHODS else _best_of_each(pure)

    def count(self, level: float, wanted: Callable[[Run], bool]) -> int:
        """Return how many methods have runs at a sparsity.

        Args:
            level: The sparsity.
            wanted: Whether a run counts.
        """
        return sum(
            any(
                not run.dense and wanted(run) and run.record.sparsity_requested == level
                for run in runs
            )
            for runs in self.methods.values()
        )


def _best_of_each(methods: Mapping[str, list[Run]]) -> dict[str, list[Run]]:
    best = sorted(
        methods,
        key=lambda name: (
            name != family_of(name),  # a method itself before its variants
            -statistics.fmean(run.accuracy for run in methods[name]),
        ),
    )
    families: dict[str, list[str]] = defaultdict(list)
    for name in best:
        families[family_of(name)].append(name)
    turns = (name for turn in zip_longest(*families.values()) for name in turn if name)
    taken = set(islice(turns, MOST_METHODS))
    return {name: runs for name, runs in methods.items() if name in taken}


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
        names = sorted(
            methods, key=lambda name: (_place(ORDER, name), name != family_of(name), name)
        )
        title = ", ".join(part for part in parts if part)
        groups.append(Group(title, {name: methods[name] for name in names}))
    groups.sort(key=lambda group: (-sum(map(len, group.methods.values())), group.title))
    return groups[:MOST_GROUPS]


def _place(order: Sequence[str], name: str) -> int:
    """Return the place of a method, or of that which it is a variant of."""
    known = name if name in order else family_of(name)
    return order.index(known) if known in order else len(order)
