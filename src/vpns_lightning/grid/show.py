"""What a person sees of a running grid: one live table, or plain lines without a terminal."""

import shlex
import statistics
import time
from collections import defaultdict
from datetime import timedelta

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from vpns_lightning.base.errors import UserError
from vpns_lightning.grid.estimate import stage_epochs
from vpns_lightning.grid.schedule import GridRun, Progress, last_lines
from vpns_lightning.runs.metrics import read_metrics

LAST = 5  # finished cells that the live table keeps
_SHOWN = ("acc", "train_acc")  # the first that was logged


class Screen:
    """Shows a grid at work.

    Args:
        console: Where; a live table needs a terminal.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._seen: dict[str, tuple[str, int]] = {}
        self._live: Live | None = None

    def __enter__(self) -> "Screen":
        """Open the table."""
        if self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=2, transient=True)
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Close it; what is printed afterwards stays."""
        if self._live is not None:
            self._live.stop()

    def __call__(self, grid: GridRun) -> None:
        """Show how far the grid is."""
        if self._live is not None:
            self._live.update(table(grid))
            return
        for each in grid.progress:
            now = (each.state, each.attempts)
            if self._seen.get(each.cell.name, ("waiting", 0)) != now and each.attempts:
                self._print(line(grid, each))
            self._seen[each.cell.name] = now

    def _print(self, text: str) -> None:
        # brackets in names and reasons are no colours
        self.console.print(text, soft_wrap=True, highlight=False, markup=False)


def table(grid: GridRun) -> Table:
    """Return the live table: each running and failed cell, and those that were finished last."""
    shown = Table(title=headline(grid), title_justify="left", box=None)
    for name in ("cell", "", "stage", "accuracy", "time"):
        shown.add_column(name, no_wrap=True, overflow="ellipsis")
    for each in grid.of("running"):
        stage, accuracy = position(each)
        ran = _duration(time.monotonic() - each.started)
        attempt = f" (attempt {each.attempts})" if each.attempts > 1 else ""
        shown.add_row(each.cell.name, f"running{attempt}", stage, accuracy, ran)
    for each in grid.of("failed"):
        shown.add_row(each.cell.name, "[red]failed[/red]", escape(each.reason), "", "")
    ended = sorted((e for e in grid.of("done") if e.here), key=lambda e: -(e.started + e.seconds))
    for each in ended[:LAST]:
        reached = f"test {_reached(each)}"
        shown.add_row(each.cell.name, "[green]done[/green]", "", reached, _duration(each.seconds))
    return shown


def headline(grid: GridRun) -> str:
    """Return how many cells are done, running, failed and waiting, and the time left."""
    counts = {state: len(grid.of(state)) for state in ("done", "running", "failed", "waiting")}
    parts = [f"{counts['done']}/{len(grid.cells)} done"]
    parts += [f"{counts[state]} {state}" for state in ("running", "failed", "waiting")]
    return ", ".join(parts) + f", {time_left(grid)} left"


def time_left(grid: GridRun) -> str:
    """Return the time left from the mean duration of the cells finished here; ? before that."""
    finished = [each.seconds for each in grid.of("done") if each.here]
    if not finished:
        return "?"
    mean = sum(finished) / len(finished)
    ran = [min(time.monotonic() - each.started, mean) for each in grid.of("running")]
    left = mean * len(grid.of("waiting", "running")) - sum(ran)
    return _duration(left / max(grid.engine.slots, 1))


def line(grid: GridRun, each: Progress) -> str:
    """Return one plain line about a cell whose state changed."""
    name, state = each.cell.name, each.state
    if state == "running":
        again = f" (attempt {each.attempts}): the last one: {each.reason}"
        text = f"started {name}" + (again if each.attempts > 1 else "")
    elif state == "done":
        text = f"done {name}: test accuracy {_reached(each)}, {each.seconds:.0f} s"
    else:
        text = f"{'will try again' if state == 'waiting' else state} {name}: {each.reason}"
    return f"[{headline(grid)}] {text}"


def position(each: Progress) -> tuple[str, str]:
    """Return ``find 3/30`` and the latest accuracy of a running cell, from its metrics."""
    epochs = stage_epochs(each.cell.config)
    try:
        rows = read_metrics(each.run.metrics)
    except UserError:  # the run itself says what is wrong with it
        rows = []
    if not rows:
        return f"{next(iter(epochs))} 0/{next(iter(epochs.values()))}", ""
    stage = rows[-1]["stage"]
    accuracy = next(
        (
            f"{metric} {row['value']:.4f}"
            for metric in _SHOWN
            for row in reversed(rows)
            if row["metric"] == metric and row["stage"] == stage
        ),
        "",
    )
    return f"{stage} {rows[-1]['epoch'] + 1}/{epochs.get(stage, '?')}", accuracy


def print_report(console: Console, grid: GridRun) -> None:
    """Print what the grid has come to; failed cells with the end of their logs."""
    reused = [each for each in grid.of("done") if _reused(each)]
    console.print(
        f"{len(grid.of('done'))} of {len(grid.cells)} cells are done in {grid.runs}"
        + (f", {len(reused)} of them with the warm-up of another cell" if reused else ""),
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    _print_best(console, grid)
    failed = grid.of("failed")
    if not failed:
        return
    shown = Table(title=f"{len(failed)} failed", title_justify="left")
    for name in ("cell", "attempts", "why"):
        shown.add_column(name, overflow="fold")
    for each in failed:
        shown.add_row(each.cell.name, str(each.attempts), escape(each.reason))
    console.print(shown)
    for each in failed:
        console.print(f"end of {each.log}:", soft_wrap=True, highlight=False, markup=False)
        for text in last_lines(each.log):
            console.print(f"  {text}", soft_wrap=True, highlight=False, markup=False)


def _print_best(console: Console, grid: GridRun) -> None:
    """Print each method's best mean test accuracy over seeds, and what draws all of them."""
    accuracies: dict[tuple[str, str], dict[float, list[float]]] = defaultdict(dict)
    for each in grid.of("done"):
        result = each.run.read_result()
        if result is None or result.accuracy is None:
            continue
        cell = each.cell
        varied = ", ".join(
            str(value) if key in {"data", "backbone"} else f"{key.rpartition('.')[2]} {value}"
            for key, value in cell.axes.items()
        )
        levels = accuracies[cell.method, varied]
        levels.setdefault(cell.sparsity, []).append(100 * result.accuracy)
    if not accuracies:
        return
    best = [
        (statistics.fmean(values), values, level, *names)
        for names, levels in accuracies.items()
        for level, values in [max(levels.items(), key=lambda item: statistics.fmean(item[1]))]
    ]
    console.print("best of each method, test accuracy in %:", highlight=False)
    shown = Table(box=None)
    shown.add_column("method", overflow="fold")
    for name in ("accuracy", "seeds", "at sparsity"):
        shown.add_column(name, justify="right", no_wrap=True)
    for mean, values, level, *names in sorted(best, key=lambda row: -row[0]):
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        method = ", ".join(filter(None, names))
        shown.add_row(escape(method), f"{mean:.2f}{spread}", str(len(values)), f"{100 * level:g} %")
    console.print(shown)
    where = shlex.quote(str(grid.runs))
    console.print(
        f"all of them: vpns report {where} --output {shlex.quote(f'report/{grid.runs.name}')}",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


def _reached(each: Progress) -> str:
    result = each.run.read_result()
    return "unknown" if result is None or result.accuracy is None else f"{result.accuracy:.4f}"


def _reused(each: Progress) -> bool:
    result = each.run.read_result()
    warmup = result and result.stages.get("warmup")
    return bool(warmup and warmup.reused_from)


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(max(seconds, 0))))
