"""A report: every figure and table that the runs allow, one page that shows them all."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vpns_lightning.base.errors import UserError, nearest
from vpns_lightning.base.files import write_text
from vpns_lightning.base.shipped import shipped_folder
from vpns_lightning.report.definitions import DEFINITIONS, IDS, Definition
from vpns_lightning.report.exhibits import build
from vpns_lightning.report.figures import draw
from vpns_lightning.report.further import FURTHER, draw_further, unseen_prompts
from vpns_lightning.report.hyperparameters import BASE, hyperparameter_table
from vpns_lightning.report.listing import matching
from vpns_lightning.report.membership import members, overview, paper_id
from vpns_lightning.report.page import PAGE_IDS, write_page
from vpns_lightning.report.panels import Drawn, Report
from vpns_lightning.report.runs import Run, read_results, rows, to_csv
from vpns_lightning.report.statistics import difference_table, differences_csv
from vpns_lightning.report.styles import LOOKS, Look
from vpns_lightning.report.tables import (
    cost_tables,
    data_table,
    panel_table,
    to_latex,
    to_markdown,
)

GRIDS = Path("configs/grid")


def make_report(
    folders: Sequence[Path],
    output: Path,
    *,
    only: Sequence[str] = (),
    methods: Sequence[str] = (),
    configs: Path | None = None,
    look: Look = LOOKS["screen"],
) -> Report:
    """Read results, write the report.

    Args:
        folders: Where to look for ``result.json``.
        output: Folder to write; files of an older report are replaced.
        only: Ids to draw, of the paper or names of grids; all where empty.
        methods: Methods to draw, with jokers; all where empty.
        configs: Folder of config files, for the table of hyper-parameters; those that come with
            the package where None.
        look: Sizes and formats of the figures.

    Raises:
        UserError: There are no results, an id or a method is unknown or has no runs, or a figure
            that was asked for by its id mixes what must not be mixed; the rest is written before.
    """
    runs, broken = read_results(folders)
    if methods:
        meant = matching("method", methods, (run.grid_label for run in runs))
        runs = [run for run in runs if run.grid_label in meant]
    report = Report(runs, broken)
    definitions = _definitions(runs)
    known = [*(definition.id for definition in definitions), *(f.name for f in FURTHER)]
    for name in only:
        if name not in known:
            raise UserError(f"unknown id {name!r}{nearest(name, known)}; known: {', '.join(known)}")
    for definition in definitions:
        if only and definition.id not in only:
            continue
        drawn = _make(definition, members(definition, runs), configs or shipped_folder())
        if drawn is None:
            report.lacking[definition.id] = how_to_make(definition.id)
        else:
            report.drawn.append(drawn)
    further = [figure for figure in FURTHER if not only or figure.name in only]
    for figure in further:
        shown = draw_further(figure, runs, output, look)
        if shown is not None:
            report.files += shown.files
            report.further[figure.name] = shown
        elif only:
            report.lacking[figure.name] = f"it needs {figure.needs}"
    if not only or "prompts" in only:
        report.notes += filter(None, [unseen_prompts(runs)])
    _write(report, output, look)
    _complain(report, only)
    return report


def _definitions(runs: Sequence[Run]) -> list[Definition]:
    """Return what can be drawn, in the order of the page: the reader's own grids first."""
    own = sorted({run.grid for run in runs if not paper_id(run.grid)})
    definitions: list[Definition] = []
    taken = {*PAGE_IDS, *IDS, *(f"{part}{f.name}" for f in FURTHER for part in ("", "body-"))}
    for definition in map(overview, own):
        if not members(definition, runs):
            continue
        # two grids, or a grid and a part of the page, may come to the same name
        name, count = definition.file, 1
        while name in taken:
            count += 1
            name = f"{definition.file}-{count}"
        taken.add(name)
        definitions.append(replace(definition, name=name))
    return definitions + list(DEFINITIONS)


def _make(definition: Definition, runs: Sequence[Run], configs: Path) -> Drawn | None:
    """Return a figure or table, None where there is nothing to make it of."""
    if definition.table == "hyperparameters":
        there = (configs / BASE).is_file()
        return Drawn(definition, (hyperparameter_table(configs),)) if there else None
    if not runs:
        return None
    if definition.table:
        tables = [data_table(runs)] if definition.table == "data" else cost_tables(runs)
        return Drawn(definition, tuple(tables))
    exhibit = build(definition, runs)
    if not exhibit.panels:
        return None
    differences = filter(None, map(difference_table, exhibit.panels))
    return Drawn(definition, (*map(panel_table, exhibit.panels), *differences), exhibit)


def how_to_make(name: str) -> str:
    """Return the commands that make the runs of an id."""
    if name == "tabA2":
        return "vpns report --configs FOLDER, the folder of this project's configs"
    folder = GRIDS if GRIDS.is_dir() else shipped_folder() / GRIDS.name
    names = [path.name for path in folder.glob("*.yaml")]
    grids = sorted(GRIDS / file for file in names if paper_id(Path(file).stem) == name)
    full = [path for path in grids if not path.stem.endswith("_mini")]
    files = full or grids or [GRIDS / f"{name}.yaml"]
    return "; ".join(f"vpns grid {shlex.quote(str(file))}" for file in files)


def _write(report: Report, output: Path, look: Look) -> None:
    def text(name: str, content: str) -> None:
        write_text(output / name, content)
        report.files.append(output / name)

    text("runs.csv", to_csv(rows(report.runs)))
    exhibits = (drawn.exhibit for drawn in report.drawn if drawn.exhibit)
    text("differences.csv", differences_csv(exhibits))
    for drawn in report.drawn:
        name = drawn.definition.file
        head = f"## {drawn.definition.id}: {drawn.definition.title}\n"
        text(f"{name}.md", "\n".join([head, *map(to_markdown, drawn.tables)]))
        labels = (f"{name}-{i}" if i > 1 else name for i in range(1, len(drawn.tables) + 1))
        text(f"{name}.tex", "\n".join(map(to_latex, drawn.tables, labels)))
        if drawn.exhibit is not None:
            report.files += draw(drawn.exhibit, output, look)
    report.files.append(write_page(report, output))


def _complain(report: Report, only: Sequence[str]) -> None:
    """Refuse what was asked for by name and cannot be drawn as asked."""
    if only and report.refused:
        raise UserError("; ".join(report.refused))
    if only and report.lacking:
        lacking = (f"{name} has no runs here: {how}" for name, how in report.lacking.items())
        raise UserError("; ".join(lacking))
