"""``vpns grid``: many runs from one file, each in a process of its own."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from vpns_lightning.base.errors import UserError
from vpns_lightning.commands.keys import as_record, fit_parser
from vpns_lightning.commands.one_line import OneLineParser
from vpns_lightning.commands.parsing import import_plugins, parse, taken
from vpns_lightning.grid.cells import Cell, Resolve, expand
from vpns_lightning.grid.engines.base import Engine
from vpns_lightning.grid.engines.local import LocalEngine, visible_gpus
from vpns_lightning.grid.estimate import gradient_steps
from vpns_lightning.grid.file import read_grid
from vpns_lightning.grid.schedule import GridRun, Stop, held, write_plan
from vpns_lightning.grid.show import Screen, print_report
from vpns_lightning.runs.folder import RunFolder
from vpns_lightning.sparsity import check_sparsity
from vpns_lightning.training.machine import check_precision

FIT = (sys.executable, "-m", "vpns_lightning.cli", "fit")
FAILED = 1  # exit status where a cell failed


def grid_parser() -> argparse.ArgumentParser:
    """Return the parser of ``vpns grid``."""
    parser = OneLineParser(
        prog="vpns grid",
        description=(
            "Run every cell of a grid file that has no result yet: methods x data x sparsities x "
            "seeds, each as its own `vpns fit`. The same command goes on after an interruption."
        ),
    )
    parser.add_argument("file", type=Path, help="the grid file, such as configs/grid/fig7.yaml")
    parser.add_argument("--dry-run", action="store_true", help="print the cells and run nothing")
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument(
        "--slots",
        type=int,
        help="runs at a time on this machine; one for each GPU, or one, where left out",
    )
    parser.add_argument(
        "--gpus-per-cell",
        type=int,
        default=1,
        help="GPUs of one machine that a run trains on together",
    )
    parser.add_argument("--address", help="of an existing Ray cluster (trusted network only)")
    parser.add_argument("--retries", type=int, default=2, help="of a cell that crashed")
    parser.add_argument("--runs", type=Path, help="folder of the run folders, not the grid file's")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a config key of all cells, over everything else; may be given several times",
    )
    return parser


def run(arguments: Sequence[str]) -> None:
    """Run ``vpns grid``.

    Exit status: 0 all cells are done, 1 a cell failed, 2 wrong input, 130 or 143 stopped.

    Raises:
        UserError: The grid file or a config is wrong; nothing was started.
    """
    plugins = _plugins(arguments)
    options = grid_parser().parse_args(import_plugins(arguments))
    if options.retries < 0:
        raise UserError(f"--retries must be at least 0, got {options.retries}")
    cells = _cells(options, plugins)
    runs = cells[0].folder.parent
    if options.dry_run:
        _print_plan(cells)
        return
    _check_needs(cells)
    console = Console()
    stop = Stop()
    with held(runs):
        write_plan(runs, cells)
        engine = _engine(options)
        # after the engine, which may set handlers of its own
        with stop.listening(), Screen(console) as screen:
            grid = GridRun(runs, cells, engine, FIT, screen, options.retries, stop)
            grid.run()
    print_report(console, grid)
    if stop.signum:
        console.print("stopped; the same command goes on")
        sys.exit(128 + stop.signum)
    if grid.of("failed"):
        sys.exit(FAILED)


def resolver() -> Resolve:
    """Return what parses the options of ``vpns fit`` into plain values."""
    parser = fit_parser()

    def resolve(options: Sequence[str]) -> dict[str, Any]:
        config = parse(parser, options)
        check_sparsity(config.find.sparsity)
        check_precision(config.trainer.precision)
        return as_record(parser, config)

    return resolve


def _cells(options: argparse.Namespace, plugins: Sequence[str]) -> list[Cell]:
    grid = read_grid(options.file)
    if options.runs is not None:
        grid = replace(grid, runs=options.runs.expanduser())
    return expand(grid, resolver(), _changes(options.set), plugins)


def _changes(given: Sequence[str]) -> Mapping[str, Any]:
    changes = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise UserError(f"--set wants KEY=VALUE, got {text!r}")
        try:
            changes[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"--set {key}: {value!r} is no value that YAML knows") from None
    return changes


def _plugins(arguments: Sequence[str]) -> list[str]:
    """Return the options that import the same plugins in every cell."""
    return [f"--plugins={names}" for names in taken(arguments, ["--plugins"])[0]]


def _engine(options: argparse.Namespace) -> Engine:
    if options.engine == "local":
        if options.address is not None:
            raise UserError("--address is that of a Ray cluster: add --engine ray")
        return LocalEngine(options.slots, visible_gpus(), options.gpus_per_cell)
    from vpns_lightning.grid.engines.ray import RayEngine

    return RayEngine(options.slots, options.address, options.gpus_per_cell)


def _check_needs(cells: Sequence[Cell]) -> None:
    missing = {
        str(cell.needs)
        for cell in cells
        if cell.needs and not cell.needs.is_file() and not RunFolder(cell.folder).result.is_file()
    }
    if missing:
        raise UserError(
            f"{len(missing)} cells tune masks that are not there yet, such as {min(missing)}: "
            "first run the grid that methods.*.masks_of names, with the same --set"
        )


def _print_plan(cells: Sequence[Cell]) -> None:
    title = escape(f"{cells[0].grid}: {len(cells)} cells")
    shown = Table(title=title, title_justify="left", box=None)
    shown.add_column("cell", no_wrap=True)
    for name in ("gradient steps", "done"):
        shown.add_column(name, justify="right", no_wrap=True)
    total, unknown, done = 0, 0, 0
    for cell in cells:
        steps = gradient_steps(cell.config)
        finished = _finished(cell)
        total += steps or 0
        unknown += steps is None
        done += finished == "yes"
        shown.add_row(cell.name, "?" if steps is None else f"{steps:,}", finished)
    console = Console()
    # a name that is cut off cannot be looked for, so a narrow terminal wraps the lines itself
    needed = Measurement.get(console, console.options.update(width=sys.maxsize), shown).maximum
    Console(width=max(console.width, needed)).print(shown)
    left_out = f", {unknown} cells whose data are not here left out" if unknown else ""
    console.print(
        f"{len(cells)} cells, {done} done; {total:,} gradient steps{left_out}; a warm-up that "
        "cells share is counted in each, but run once",
        highlight=False,
        markup=False,
    )


def _finished(cell: Cell) -> str:
    try:
        return "" if RunFolder(cell.folder).read_result() is None else "yes"
    except UserError:
        return "damaged"
