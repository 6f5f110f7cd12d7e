"""Tables as Markdown and LaTeX: mean and standard deviation over seeds, the best in bold."""

import statistics
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
    numbers = [run.accuracy for run in dense]
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
        accuracy = [run.accuracy for run in group]
        std = statistics.stdev(accuracy) if len(accuracy) > 1 else None
        last = Cell(f"{spread(statistics.fmean(accuracy), std, 2)} ({len(group)})")
        rows.append((*head, *(Cell(text) for text in costs), last))
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


def to_latex(table: Table) -> str:
    r"""Return a table as LaTeX; needs ``\usepackage{booktabs}``."""

    def line(cells: Iterable[str]) -> str:
        return " & ".join(cells) + r" \\"

    body = [
        line(rf"\textbf{{{escape(c.text)}}}" if c.bold else escape(c.text) for c in row)
        for row in table.rows
    ]
    lines = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(' '.join([table.title + '.', table.note]).strip())}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
        r"\toprule",
        line(map(escape, table.columns)),
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


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
