"""Tables as Markdown and LaTeX: mean and standard deviation over seeds, the best in bold."""

import re
import statistics
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from vpns_lightning.base.texts import inline
from vpns_lightning.report.comparability import mixture
from vpns_lightning.report.gaps import show_level
from vpns_lightning.report.measures import Measure
from vpns_lightning.report.panels import Cell, Curve, Panel, Point, Table
from vpns_lightning.report.runs import UNKNOWN, Run, describe, number, setting

BEST = "best mean in bold"


def note(rows: Iterable[Sequence[Cell]], *remarks: str) -> str:
    """Return what stands below a table; one seed has no standard deviation."""
    spread_shown = any("±" in cell.text for row in rows for cell in row)
    what = "Mean ± sample standard deviation over seeds" if spread_shown else "Mean over seeds"
    return "; ".join([f"{what}, (number of seeds)", *remarks]) + "."


def spread(mean: float, std: float | None, decimals: int) -> str:
    """Return ``76.42 ± 0.31``, or the mean alone where there is no deviation."""
    text = f"{mean:,.{decimals}f}"
    return text if std is None else f"{text} ± {std:,.{decimals}f}"


def panel_table(panel: Panel) -> Table:
    """Return the numbers of a panel: a row for each method, a column for each level."""
    measure = panel.measure
    best = _best(panel)
    # dense networks alone have no other level than their own
    own = (point.level for curve in panel.dense for point in curve.points)
    levels = panel.tried or tuple(dict.fromkeys(own))
    rows = []
    for curve in (*panel.dense, *panel.curves):
        points = {point.level: point for point in curve.points}
        row = [Cell(curve.label)]
        for level in levels:
            flat = curve in panel.dense
            point = next(iter(points.values()), None) if flat else points.get(level)
            row.append(_cell(curve, point, measure, None if flat else best.get(level)))
        rows.append(tuple(row))
    heads = (show_level(level, panel.axis) for level in levels)
    title = f"{panel.title}: {measure.label} by {panel.axis.label.partition(' (')[0]}"
    return Table(title, ("method", *heads), tuple(rows), note(rows, BEST))


def _cell(curve: Curve, point: Point | None, measure: Measure, best: str | None) -> Cell:
    if point is None:
        return Cell("refused" if curve.refused else "missing")
    text = f"{spread(point.mean, point.std, measure.decimals)} ({len(point.seeds)})"
    shown = f"{point.mean:.{measure.decimals}f}"
    return Cell(text, bold=shown == best)


def _best(panel: Panel) -> dict[Any, str]:
    """Return the best mean of each level as it is shown, so that equal ones are all bold."""
    choose = {"max": max, "min": min}.get(panel.measure.best)
    means: dict[Any, list[float]] = defaultdict(list)
    for curve in panel.curves:
        for point in curve.points:
            means[point.level].append(point.mean)
    if choose is None:
        return {}
    shown = {
        level: {value: f"{value:.{panel.measure.decimals}f}" for value in values}
        for level, values in means.items()
    }
    # a single method is no contest, nor are equal ones
    return {
        level: texts[choose(texts)]
        for level, texts in shown.items()
        if len(set(texts.values())) > 1
    }


DATA = {
    "classes": "classes",
    "train_images": "training images",
    "test_images": "test images",
    "batch_size": "batch size",
    "input_size": "input size (px)",
}


def data_table(runs: Sequence[Run]) -> Table:
    """Return one row a data set: what the runs say of it, and its dense networks' accuracy."""
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.dataset].append(run)
    rows = []
    for name, group in sorted(groups.items()):
        known = (Cell(_values(setting(r.record, key) for r in group)) for key in DATA)
        rows.append((Cell(name), *known, Cell(_dense_accuracy(group))))
    heads = ("data set", *DATA.values(), "dense accuracy (%)")
    return Table("Data sets", heads, tuple(rows), note(rows))


def _dense_accuracy(runs: Sequence[Run]) -> str:
    dense = [run for run in runs if run.record.method == "Dense"]
    if not dense:
        return "no run"
    if mixture(dense) is not None:
        return "refused"
    return _over_seeds(dense)


def _over_seeds(runs: Sequence[Run]) -> str:
    """Return mean, deviation and number of seeds; several runs of one seed are one seed."""
    seeds: dict[object, list[float]] = defaultdict(list)
    for run in runs:
        known = run.record.seed is not None  # of imported runs each is one
        seeds[run.record.seed if known else run.path].append(run.accuracy)
    numbers = [statistics.fmean(values) for values in seeds.values()]
    std = statistics.stdev(numbers) if len(numbers) > 1 else None
    return f"{spread(statistics.fmean(numbers), std, 2)} ({len(numbers)})"


def _values(values: Iterable[Any]) -> str:
    known = sorted(set(values), key=str)
    return ", ".join(f"{v:,}" if isinstance(v, int) else describe(v) for v in known)


COSTS = (
    ("epochs", "epochs", 0, 1),
    ("gradient steps", "gradient_steps", 0, 1),
    ("forward-backward passes", "forward_backward_passes", 0, 1),
    ("time (minutes)", "seconds", 2, 60),
)


def cost_tables(runs: Sequence[Run]) -> list[Table]:
    """Return what each method cost at equal sparsity, a table a data set, backbone and grid."""
    groups: dict[tuple[str, str, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.dataset, run.record.backbone, run.grid].append(run)
    return [_cost_table(key, group) for key, group in sorted(groups.items())]


def _cost_table(key: tuple[str, str, str], runs: Sequence[Run]) -> Table:
    cells: dict[tuple[float, str], list[Run]] = defaultdict(list)
    for run in runs:
        cells[run.record.sparsity_requested, run.grid_label].append(run)
    rows = []
    for (asked, label), group in sorted(cells.items()):
        head = (Cell(f"{100 * asked:g} %"), Cell(label))
        reason = mixture(group)
        if reason is not None:
            rows.append((*head, *[Cell("refused")] * (len(COSTS) + 1)))
            continue
        costs = (_mean(group, key, decimals, unit) for _, key, decimals, unit in COSTS)
        rows.append((*head, *(Cell(text) for text in costs), Cell(_over_seeds(group))))
    heads = ("sparsity", "method", *(name for name, *_ in COSTS), "test accuracy (%)")
    where = ", ".join(part for part in key if part)
    return Table(f"{where}: cost of a whole run", heads, tuple(rows), note(rows, BEST))


def _mean(runs: Sequence[Run], key: str, decimals: int, unit: float) -> str:
    stated = (number(getattr(run.record, key)) for run in runs)
    numbers = [value / unit for value in stated if value is not None]
    return f"{statistics.fmean(numbers):,.{decimals}f}" if numbers else UNKNOWN


def to_markdown(table: Table) -> str:
    """Return a table as Markdown."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(map(inline, cells)) + " |"

    body = [line(f"**{c.text}**" if c.bold else c.text for c in row) for row in table.rows]
    rule = line("---" if i == 0 else "---:" for i in range(len(table.columns)))
    note = ["", inline(table.note)] if table.note else []
    return (
        "\n".join([f"### {inline(table.title)}", "", line(table.columns), rule, *body, *note])
        + "\n"
    )


def to_latex(table: Table, label: str = "") -> str:
    r"""Return a table as LaTeX; needs ``\usepackage{booktabs}``.

    Four levels fit into a column of 3.25 inches; more take the width of the page.

    Args:
        table: The table.
        label: For ``\ref``, without ``tab:``; none where empty.
    """

    def line(cells: Iterable[str]) -> str:
        return " & ".join(cells) + r" \\"

    count = _common_count(table)
    body = [
        line([_latex_name(row[0]), *(_latex_cell(c, counted=count is None) for c in row[1:])])
        for row in table.rows
    ]
    note = table.note
    if count is not None:
        note = re.sub(r"\(number of (\w+?)s\)", rf"{count} \1{'' if count == 1 else 's'}", note)
    kind = "table" if len(table.columns) <= COLUMN_HOLDS else "table*"
    lines = [
        "% needs \\usepackage{booktabs}",
        rf"\begin{{{kind}}}",
        r"\centering",
        rf"\caption{{{escape(' '.join([table.title + '.', note]).strip())}}}",
        *([rf"\label{{tab:{label}}}"] if label else []),
        r"\footnotesize",
        r"\setlength{\tabcolsep}{3pt}",
        rf"\begin{{tabular}}{{@{{}}l{'r' * (len(table.columns) - 1)}@{{}}}}",
        r"\toprule",
        line(map(escape, table.columns)),
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        rf"\end{{{kind}}}",
    ]
    return "\n".join(lines) + "\n"


COLUMN_HOLDS = 5  # columns: the name and four levels
LONGEST_NAME = 14  # letters beside four levels; longer ones take several lines
# "76.42 ± 0.31 (3)", or "+1.20 [+0.40, +2.00] (3)"; deviation, interval and count may lack
CELL = re.compile(
    r"(?P<mean>[+-]?[\d,.]+)(?: ± (?P<std>[\d,.]+))?(?: \[(?P<ends>[^\]]+)\])?"
    r"(?: \((?P<count>\d+)\))?"
)


def _common_count(table: Table) -> int | None:
    """Return how many seeds each entry has, None where they differ or are not said."""
    found = [CELL.fullmatch(cell.text) for row in table.rows for cell in row[1:]]
    counts = {int(match["count"]) for match in found if match and match["count"]}
    return counts.pop() if len(counts) == 1 else None


def _latex_name(cell: Cell) -> str:
    lines = textwrap.wrap(cell.text, LONGEST_NAME, break_long_words=False)
    if len(lines) < 2 or CELL.fullmatch(cell.text):
        return _latex_cell(cell, counted=True)
    text = r"\\".join(map(escape, lines))
    return rf"\shortstack[l]{{{text}}}"


def _latex_cell(cell: Cell, *, counted: bool) -> str:
    match = CELL.fullmatch(cell.text)
    if match is None or not any((match["std"], match["ends"], match["count"])):
        text = escape(cell.text)
        return rf"\textbf{{{text}}}" if cell.bold else text
    text = escape(match["mean"])
    text = rf"\textbf{{{text}}}" if cell.bold else text
    if match["std"]:
        text += rf"$_{{\pm {match['std']}}}$"
    count = rf"\,({match['count']})" if counted and match["count"] else ""
    if match["ends"]:  # below the mean, or four of them would be wider than a column
        return rf"\shortstack{{{text}{count}\\{{\tiny {escape('[' + match['ends'] + ']')}}}}}"
    return text + count


ESCAPES = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    # a row that begins with one would be read as an argument of the line before
    "[": "{[}",
    "*": "{*}",
    "|": r"\textbar{}",
}


def escape(text: str) -> str:
    """Return text that LaTeX sets as it stands."""
    return "".join(ESCAPES.get(sign, sign) for sign in text)
