"""``vpns compare``: two runs side by side."""

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vpns_lightning.base.errors import UserError
from vpns_lightning.commands.one_line import OneLineParser
from vpns_lightning.report.comparison import (
    LayerOverlap,
    draw_curves,
    mask_overlap,
    over_seeds,
    read_side,
    results,
    setting_differences,
    whole,
)
from vpns_lightning.report.listing import Listed


def run(arguments: Sequence[str]) -> None:
    """Run ``vpns compare``.

    Raises:
        UserError: The command line is wrong, or a folder is no run.
    """
    parser = OneLineParser(
        prog="vpns compare",
        description=(
            "Two runs: settings that differ, what they came to, the difference paired over the "
            "seeds of the runs beside them, the overlap of their masks, and a picture of both "
            "curves."
        ),
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs=2, type=Path, metavar="RUN", help="two run folders")
    parser.add_argument(
        "--output", type=Path, default=Path("compare.png"), help="the picture (PNG)"
    )
    given = parser.parse_args(list(arguments))
    first, second = map(read_side, given.runs)
    names = _names(first, second)
    console = Console()
    for name, side in zip("AB", (first, second), strict=True):
        _say(console, f"{name}: {side.path} ({side.state})")
    _print_settings(console, first, second)
    _print_results(console, first, second)
    _print_difference(console, first, second)
    _print_overlap(console, first, second)
    if draw_curves(first, second, names, given.output):
        _say(console, f"picture: {given.output}")
    else:
        _say(console, "no picture: neither run has logged an accuracy yet")


def _names(first: Listed, second: Listed) -> tuple[str, str]:
    """Return names for the picture, with what tells the two apart."""
    pairs = [
        (first.method, second.method),
        (first.data, second.data),
        (first.backbone, second.backbone),
        (f"{100 * (first.sparsity or 0):.4g} %", f"{100 * (second.sparsity or 0):.4g} %"),
        (f"seed {first.seed}", f"seed {second.seed}"),
    ]
    told = [pair for i, pair in enumerate(pairs) if i == 0 or pair[0] != pair[1]]
    ours, theirs = (", ".join(pair[i] for pair in told) for i in (0, 1))
    return f"A: {ours}", f"B: {theirs}"


def _print_settings(console: Console, first: Listed, second: Listed) -> None:
    found = setting_differences(first, second)
    if not found:
        _say(console, "settings: none differ but where and how they were computed")
        return
    table = _table("settings that differ", "A", "B")
    for key, here, there in found:
        table.add_row(*map(escape, (key, here, there)))
    console.print(table)


def _print_results(console: Console, first: Listed, second: Listed) -> None:
    table = _table("results", "A", "B", "B - A", numbers=True)
    for label, here, there in results(first, second):
        decimals = 0 if label == "gradient steps" else 2
        known = here is not None and there is not None
        minus = f"{there - here:+,.{decimals}f}" if known else ""  # type: ignore[operator]  # known
        shown = ("" if n is None else f"{n:,.{decimals}f}" for n in (here, there))
        table.add_row(label, *shown, minus)
    if table.row_count:
        console.print(table)


def _print_difference(console: Console, first: Listed, second: Listed) -> None:
    alone, paired = over_seeds(first, second)
    if alone is None:
        _say(console, "difference: not before both runs are finished")
    elif paired is None:
        _say(console, "difference B - A: no pair of equal seed, so the seed differs too")
    elif paired.low is None or paired.high is None:
        seed = paired.seeds[0]
        _say(console, f"difference B - A: {paired.mean:+.2f} points at seed {seed}; a single pair")
        _say(console, "  has no interval, and decides nothing")
    else:
        seeds = ", ".join(map(str, paired.seeds))
        interval = f"[{paired.low:+.2f}, {paired.high:+.2f}]"
        _say(console, f"difference B - A, paired over seeds {seeds}:")
        _say(console, f"  {paired.mean:+.2f} points, 95 % interval {interval}: {paired.verdict}")


def _print_overlap(console: Console, first: Listed, second: Listed) -> None:
    try:
        layers, others = mask_overlap(first, second)
    except UserError as error:
        _say(console, f"masks: {error}")
        return
    if layers:
        heads = ("weights", "kept A %", "kept B %", "IoU", "by chance")
        table = _table("overlap of masks", *heads, numbers=True)
        for layer in layers:
            table.add_row(*_overlap_row(layer))
        table.add_section()
        table.add_row(*_overlap_row(whole(layers)))
        console.print(table)
        _say(console, "IoU: weights that both keep over those that either keeps; by chance: of two")
        _say(console, "  random masks of these densities")
    if others:
        _say(console, f"layers of other shape, or in one run only: {', '.join(others)}")


def _overlap_row(layer: LayerOverlap) -> tuple[str, ...]:
    kept = (f"{100 * count / layer.weights:.2f}" for count in layer.kept)
    weights = f"{layer.weights:,}"
    return escape(layer.layer), weights, *kept, f"{layer.iou:.3f}", f"{layer.by_chance:.3f}"


def _table(first: str, *heads: str, numbers: bool = False) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold")
    for head in heads:
        table.add_column(head, justify="right" if numbers else "left", overflow="fold")
    return table


def _say(console: Console, text: str) -> None:
    # paths must stay whole, and brackets in names are no colours
    console.print(text, soft_wrap=True, highlight=False, markup=False)
