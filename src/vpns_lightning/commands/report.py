"""``vpns report``: figures, tables and a page from finished runs."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from vpns_lightning.base.errors import UserError
from vpns_lightning.report.definitions import DEFINITIONS
from vpns_lightning.report.make import make_report
from vpns_lightning.report.panels import Report


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]  # raises, so it never returns
        raise UserError(message)


def run(arguments: Sequence[str]) -> None:
    """Run ``vpns report``.

    Raises:
        UserError: The command line is wrong, there are no results, or a figure that was asked for
            cannot be drawn.
    """
    ids = "\n".join(f"  {d.id:<7} {d.title}" for d in DEFINITIONS)
    parser = _Parser(
        prog="vpns report",
        description="Figures, tables and one page from the result.json files below some folders.",
        epilog=f"ids of the paper:\n{ids}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders that hold run folders")
    parser.add_argument("--output", type=Path, default=Path("report"), help="folder to write")
    parser.add_argument(
        "--only",
        nargs="+",
        action="extend",
        default=[],
        metavar="ID",
        help="draw these alone: an id of the paper, or the name of a grid",
    )
    parser.add_argument(
        "--configs", type=Path, help="config files, read for tabA2; those of vpns where left out"
    )
    given = parser.parse_args(list(arguments))
    report = make_report(given.runs, given.output, only=given.only, configs=given.configs)
    print(_closing(report, given.output))


def _closing(report: Report, output: Path) -> str:
    """Return what to say at the end: what was drawn, what not, and where it is."""
    runs = f"{len(report.runs)} run{'' if len(report.runs) == 1 else 's'}"
    lines = [f"{runs}, figures and tables drawn: {len(report.drawn)}, in {output}"]
    for broken in report.broken:
        lines.append(f"left out: {broken.path} {broken.reason}")
    if report.broken:
        count = len(report.broken)
        lines.append(f"{count} file{'' if count == 1 else 's'} left out")
    for drawn in report.drawn:
        about = drawn.exhibit
        missing = len(about.missing) if about else 0
        tail = f", {missing} place{'s lack' if missing > 1 else ' lacks'} runs" if missing else ""
        lines.append(f"{drawn.definition.id}: {drawn.definition.title}{tail}")
        if about and about.absent:
            lines.append(f"  the paper has besides: {'; '.join(about.absent)}")
    lines += [f"refused: {reason}" for reason in report.refused]
    lines += [f"{name}: no runs ({how})" for name, how in report.lacking.items()]
    return "\n".join([*lines, f"open {output / 'index.html'}"])
