"""``vpns ls``: the runs below some folders, finished or not."""

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from vpns_lightning.commands.one_line import OneLineParser
from vpns_lightning.report.listing import STATES, Listed, Row, list_runs, matching, rows, unbegun
from vpns_lightning.report.tables import spread

COLORS = {"finished": "green", "running": "cyan", "stopped": "yellow", "failed": "red"}
# filters that take names, with jokers
FILTERS = ("method", "data", "backbone", "grid")
UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
# what a sort goes by; what is not known comes last
KEYS: dict[str, Callable[[Row], Any]] = {
    "method": lambda row: row.runs[0].method.lower(),
    "data": lambda row: row.runs[0].data.lower(),
    "sparsity": lambda row: row.runs[0].sparsity,
    "accuracy": lambda row: None if row.accuracy is None else -row.accuracy,
    "seeds": lambda row: -len(row.runs),
    "state": lambda row: STATES.index(row.runs[0].state),
    "age": lambda row: row.age,
}


def run(arguments: Sequence[str]) -> None:
    """Run ``vpns ls``.

    Raises:
        UserError: The command line is wrong, a folder does not exist, or a filter names what no
            run has.
    """
    given = _parser().parse_args(list(arguments))
    listed, broken = list_runs(given.runs)
    chosen = _filtered(listed, given)
    found = [Row((one,)) for one in chosen] if given.each else rows(chosen)
    if given.sort:
        key = KEYS[given.sort]
        known = [row for row in found if key(row) is not None]
        known.sort(key=key, reverse=given.reverse)
        found = known + [row for row in found if key(row) is None]
    elif given.reverse:
        found.reverse()
    console = Console()
    tables: dict[str, list[Row]] = defaultdict(list)
    for row in found:  # one order over all grids has one table
        tables["" if given.sort else row.runs[0].grid].append(row)
    for grid, part in tables.items():
        title = f"grid {grid}" if grid else "by hand" if len(tables) > 1 else ""
        # without a terminal each line stands for itself, so that lines can be searched
        said_once = console.is_terminal and len({row.runs[0].data for row in part}) == 1
        title = ", ".join(filter(None, [title, part[0].runs[0].data if said_once else ""]))
        _print_whole(console, _table(part, title, each=given.each, data=not said_once))
    console.print(_closing(chosen, given.runs), soft_wrap=True, highlight=False, markup=False)
    for one in broken:
        line = f"left out: {one.path}: {one.reason}"
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    for grid, lacking, cells in unbegun(given.runs):
        line = f"grid {grid}: {lacking} of {cells} cells not begun"
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="vpns ls",
        description=(
            "The runs below some folders: a row for those of one method, data set, sparsity and "
            "state that differ in their seed alone."
        ),
        epilog="Names may hold jokers: --method 'VPNs*'.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs", nargs="*", type=Path, default=[Path("runs")], help="folders; runs where left out"
    )
    parser.add_argument("--sort", choices=tuple(KEYS), help="accuracy and seeds: most first")
    parser.add_argument("--reverse", action="store_true", help="the other way round")
    for name in FILTERS:
        parser.add_argument(f"--{name}", nargs="+", action="extend", metavar="NAME")
    parser.add_argument("--sparsity", nargs="+", type=float, metavar="FRACTION")
    parser.add_argument("--seed", nargs="+", type=int, metavar="SEED")
    parser.add_argument("--state", nargs="+", choices=STATES)
    parser.add_argument("--each", action="store_true", help="a row for each run, with its folder")
    return parser


def _filtered(listed: Sequence[Listed], given: argparse.Namespace) -> list[Listed]:
    kept = list(listed)
    for name in FILTERS:
        wanted = getattr(given, name)
        if not wanted:
            continue
        meant = matching(name, wanted, (getattr(one, name) for one in listed))
        kept = [one for one in kept if getattr(one, name) in meant]
    for name in ("sparsity", "seed", "state"):
        wanted = getattr(given, name)
        kept = [one for one in kept if not wanted or getattr(one, name) in wanted]
    return kept


def _table(found: Sequence[Row], title: str, *, each: bool, data: bool) -> Table:
    runs = [one for row in found for one in row.runs]
    # what all have in common is said below the table
    varied = [name for name in ("backbone", "grid") if len({getattr(r, name) for r in runs}) > 1]
    table = Table(
        title=escape(title) or None,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("method", overflow="fold")
    if data:
        table.add_column("data", overflow="fold")
    for name in varied:
        table.add_column(name, overflow="fold")
    for name in ("sparsity", "accuracy %", "seeds"):
        table.add_column(name, justify="right", no_wrap=name != "seeds")
    table.add_column("state", no_wrap=True)
    table.add_column("age", justify="right", no_wrap=True)
    if each:
        table.add_column("folder", overflow="fold", ratio=1)
    for row in found:
        first = row.runs[0]
        color = COLORS[first.state]
        table.add_row(
            escape(first.method),
            *([escape(first.data)] if data else []),
            *(escape(getattr(first, name)) for name in varied),
            "?" if first.sparsity is None else f"{100 * first.sparsity:.4g} %",
            _accuracy(row),
            ", ".join("?" if seed is None else str(seed) for seed in row.seeds),
            f"[{color}]{first.state}[/{color}]",
            _age(row.age),
            *([escape(str(first.path))] if each else []),
        )
    return table


def _accuracy(row: Row) -> str:
    if row.accuracy is None:
        return ""
    several = len(row.accuracies) > 1
    return spread(row.accuracy, statistics.stdev(row.accuracies) if several else None, 2)


def _age(seconds: float) -> str:
    size, unit = next((pair for pair in UNITS if seconds >= 2 * pair[0]), UNITS[-1])
    return f"{max(seconds, 0) / size:.0f} {unit}"


def _print_whole(console: Console, table: Table) -> None:
    """Print a table; without a terminal no cell is folded, so that lines can be searched."""
    if console.is_terminal:
        console.print(table)
        return
    needed = Measurement.get(console, console.options.update(width=sys.maxsize), table).maximum
    Console(width=max(console.width, needed)).print(table)


def _closing(chosen: Sequence[Listed], folders: Sequence[Path]) -> str:
    where = ", ".join(map(str, folders))
    if not chosen:
        return f"no runs in {where}"
    counts = {state: sum(one.state == state for one in chosen) for state in STATES}
    states = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    text = f"{len(chosen)} run{'' if len(chosen) == 1 else 's'} in {where}: {states}"
    backbones = {one.backbone for one in chosen}
    return text + (f"; all {backbones.pop()}" if len(backbones) == 1 and len(chosen) > 1 else "")
