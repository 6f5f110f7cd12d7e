"""A report as one W&B run: tables, a chart for each data set, cost against accuracy, figures."""

import re
import shlex
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vpns_lightning.base.errors import UserError
from vpns_lightning.base.wandb_settings import wandb_offline_reason, wandb_settings
from vpns_lightning.report.figures import draw
from vpns_lightning.report.panels import Drawn, Panel, Report
from vpns_lightning.report.runs import Run, number, rows

POINTS = ("figure", "panel", "method", "level", "x", "mean", "std", "low", "high", "seeds")
COSTS = ("gradient_steps", "forward_backward_passes", "epochs", "seconds")


def send(report: Report, output: Path, project: str) -> str:
    """Log a report to W&B; return a line that says where it is.

    Args:
        report: The report, written.
        output: Its folder; what waits to be sent lies there too.
        project: W&B's project.

    Raises:
        UserError: W&B did not take it; the report itself is whole.
    """
    import wandb  # a second of import, which only those who ask for it pay

    reason = wandb_offline_reason()
    try:
        with wandb.init(
            project=project,
            job_type="report",
            name=f"report-{output.resolve().name}",
            dir=str(output),
            mode="offline" if reason else "online",
            tags=sorted({tag[:64] for run in report.runs for tag in (run.dataset, run.label)})[:50],
            config={"runs": [str(run.path.parent) for run in report.runs]},
            settings=wandb_settings(offline=bool(reason)),
        ) as run:
            run.log(_content(report))
            run.summary.update(_counts(report))
            address = "" if reason else run.url
    except Exception as error:  # of a service: it raises what it likes
        said = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"W&B did not take the report ({said}); it lies in {output}") from error
    if reason:
        folder = shlex.quote(str(output / "wandb"))
        return f"W&B: offline because {reason}; wandb sync {folder}/offline-run-* sends it"
    return f"W&B: {address}"


def _counts(report: Report) -> dict[str, Any]:
    return {
        "runs": len(report.runs),
        "methods": len({run.label for run in report.runs}),
        "datasets": len({run.dataset for run in report.runs}),
    }


def _content(report: Report) -> dict[str, Any]:
    """Return everything that is logged, by its key."""
    import wandb

    table = rows(report.runs)
    columns = list(table[0])
    points = [point for drawn in report.drawn for point in _points(drawn)]
    content: dict[str, Any] = {
        "all_runs": _table(columns, [[row[column] for column in columns] for row in table]),
        "points": _table(POINTS, points),
    }
    for drawn in report.drawn:
        content |= _charts(drawn)
    for dataset in sorted({run.dataset for run in report.runs}):
        content |= _costs(dataset, [run for run in report.runs if run.dataset == dataset])
    for file in report.files:
        if file.suffix == ".png":
            content[_key(f"figures/{file.stem}")] = wandb.Image(str(file))
    return content


def _key(text: str) -> str:
    """Return a name that W&B can search for, and keep files under."""
    return re.sub(r"[^\w/]+", "_", text).strip("_")


def _table(columns: Any, content: Sequence[Iterable[Any]]) -> Any:
    import wandb

    # a column holds numbers and words where one run says what another does not
    return wandb.Table(columns=list(columns), data=list(content), allow_mixed_types=True)


def _points(drawn: Drawn) -> Iterator[list[Any]]:
    """Yield every point of a figure with its band: the mean less and plus a standard deviation."""
    for panel in drawn.exhibit.panels if drawn.exhibit else ():
        for curve in (*panel.dense, *panel.curves):
            for point in curve.points:
                spread = point.std or 0.0
                yield [
                    *(drawn.definition.id, panel.title, curve.label, str(point.level), point.x),
                    *(point.mean, point.std, point.mean - spread, point.mean + spread),
                    len(point.seeds),
                ]


def _charts(drawn: Drawn) -> dict[str, Any]:
    """Return for each panel a chart to point at, and the same curves drawn with their bands."""
    import wandb

    charts: dict[str, Any] = {}
    for panel in drawn.exhibit.panels if drawn.exhibit else ():
        what = f"{panel.measure.label} by {panel.axis.label}"
        key = _key(f"{drawn.definition.id}/{panel.title}, {what}")
        curves = [c for c in panel.curves if len(c.points) and not isinstance(c.points[0].x, str)]
        if curves:
            charts[f"{key}_means"] = wandb.plot.line_series(
                xs=[[point.x for point in curve.points] for curve in curves],
                ys=[[point.mean for point in curve.points] for curve in curves],
                keys=[curve.label for curve in curves],
                title=f"{panel.title}: {panel.measure.label}",
                xname=panel.axis.label,
            )
        charts[f"{key}_bands"] = wandb.Html(_drawn_alone(drawn, panel), inject=False)
    return charts


def _drawn_alone(drawn: Drawn, panel: Panel) -> str:
    """Return a panel as SVG; W&B's own charts of one run have no bands."""
    assert drawn.exhibit is not None
    with tempfile.TemporaryDirectory() as folder:
        files = draw(replace(drawn.exhibit, panels=(panel,)), Path(folder))
        return next(file for file in files if file.suffix == ".svg").read_text()


def _costs(dataset: str, runs: list[Run]) -> dict[str, Any]:
    """Return cost against accuracy of the runs of a data set, as a table and a chart of it."""
    import wandb

    content: list[Iterable[Any]] = []
    for run in runs:
        costs = [number(getattr(run.record, name)) for name in COSTS]
        if costs[0] is not None:  # an imported run does not say
            content.append([run.grid_label, run.record.sparsity, run.accuracy, *costs])
    if not content:
        return {}
    table = wandb.Table(columns=["method", "sparsity", "test accuracy (%)", *COSTS], data=content)
    title = f"{dataset}: accuracy against gradient steps"
    chart = wandb.plot.scatter(table, "gradient_steps", "test accuracy (%)", title=title)
    return {_key(f"cost/{dataset}"): chart}
