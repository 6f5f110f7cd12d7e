"""``vpns report``: figures, tables and a page from finished runs."""

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vpns_lightning.base.errors import UserError, nearest
from vpns_lightning.commands.one_line import OneLineParser
from vpns_lightning.report.definitions import DEFINITIONS
from vpns_lightning.report.further import FURTHER
from vpns_lightning.report.make import make_report
from vpns_lightning.report.panels import Report
from vpns_lightning.report.styles import FORMATS, LOOKS, PRINT_DPI, WIDTHS, Look
from vpns_lightning.report.wandb_run import send


def run(arguments: Sequence[str]) -> None:
    """Run ``vpns report``.

    Raises:
        UserError: The command line is wrong, there are no results, a figure that was asked for
            cannot be drawn, or W&B does not take the report.
    """
    ids = "\n".join(f"  {d.id:<7} {d.title}" for d in DEFINITIONS)
    names = "\n".join(f"  {figure.name:<13} {figure.title}" for figure in FURTHER)
    parser = OneLineParser(
        prog="vpns report",
        description="Figures, tables and one page from the result.json files below some folders.",
        epilog=f"ids of the paper:\n{ids}\n\nfurther figures:\n{names}",
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
        "--method",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="these methods alone, as vpns ls names them; with jokers: 'VPNs*'",
    )
    parser.add_argument(
        "--configs", type=Path, help="config files, read for tabA2; those of vpns where left out"
    )
    _add_look(parser)
    parser.add_argument(
        "--wandb", metavar="PROJECT", help="log tables, charts and figures as one W&B run too"
    )
    given = parser.parse_args(list(arguments))
    report = make_report(
        given.runs,
        given.output,
        only=given.only,
        methods=given.method,
        configs=given.configs,
        look=_look(given),
    )
    print(_closing(report, given.output))
    if given.wandb:
        print(send(report, given.output, given.wandb))


def _add_look(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--style",
        choices=tuple(LOOKS),
        default="screen",
        help="paper: column width, 8 pt, no title in the picture; slides: 12 inches, 16 pt",
    )
    parser.add_argument(
        "--format",
        metavar="FORMAT,...",
        help=f"of the figures, of {', '.join(FORMATS)}; png,svg where left out, pdf,png in a paper",
    )
    parser.add_argument(
        "--width", help=f"of the figures: {', '.join(WIDTHS)}, or inches; of a paper: column"
    )
    parser.add_argument("--font-size", type=float, metavar="POINTS", help="of the figures' labels")


def _look(given: argparse.Namespace) -> Look:
    """Return the sizes that were asked for.

    Raises:
        UserError: A format is unknown, or a size is none.
    """
    look = LOOKS[given.style]
    if given.format is not None:
        names = [name.strip().lower() for name in given.format.split(",")]
        for name in names:
            if name not in FORMATS:
                allowed = ", ".join(FORMATS)
                raise UserError(
                    f"--format {name!r} is unknown{nearest(name, FORMATS)}; "
                    f"allowed: {allowed}, several with commas between"
                )
        chosen = tuple(name for name in FORMATS if name in names)
        look = replace(look, formats=chosen, dpi=PRINT_DPI)
    if given.width is not None:
        look = replace(look, width=_inches(given.width))
    if given.font_size is not None:
        if not 4 <= given.font_size <= 72:
            raise UserError(f"--font-size must be from 4 to 72 points, got {given.font_size:g}")
        look = replace(look, font=given.font_size)
    return look


def _inches(text: str) -> float:
    try:
        inches = WIDTHS[text] if text in WIDTHS else float(text)
    except ValueError:
        inches = 0.0
    if not 2 <= inches <= 40:
        raise UserError(
            f"--width must be {', '.join(WIDTHS)}, or from 2 to 40 inches, got {text!r}"
        )
    return inches


def _closing(report: Report, output: Path) -> str:
    """Return what to say at the end: what was drawn, what not, and where it is."""
    runs = f"{len(report.runs)} run{'' if len(report.runs) == 1 else 's'}"
    lines = [
        f"{runs}, figures and tables drawn: {len(report.drawn) + len(report.further)}, in {output}"
    ]
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
    lines += [f"{name}: {figure.title}" for name, figure in report.further.items()]
    lines += report.notes
    lines += [f"refused: {reason}" for reason in report.refused]
    for name, how in report.lacking.items():
        first, *others = how.split("; ")
        more = f"; and {len(others)} more" if others else ""
        lines.append(f"{name}: no runs ({first}{more})")
    return "\n".join([*lines, f"open {shlex.quote(str(output / 'index.html'))}"])
