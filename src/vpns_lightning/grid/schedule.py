"""Running the cells of a grid: what is missing, retried where it crashed, the rest in any case."""

import json
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Literal, TypeAlias

from vpns_lightning.base.errors import UserError
from vpns_lightning.base.files import lock, write_text
from vpns_lightning.grid.cells import Cell
from vpns_lightning.grid.engines.base import Engine, Job
from vpns_lightning.runs.folder import RunFolder
from vpns_lightning.runs.grid_cell import environment
from vpns_lightning.runs.record import GridRecord

State: TypeAlias = Literal["waiting", "running", "done", "failed", "stopped"]
LOG = "grid.log"
SHARED = "shared"
WRONG_INPUT = 2  # exit status of `vpns fit` where trying again cannot help
GRACE = 120.0  # seconds that a run has to save once it is asked to stop
_TICK = 1.0  # seconds between two looks at the run folders


@dataclass
class Progress:
    """How far a cell is.

    Attributes:
        cell: The cell.
        run: Its run folder.
        state: What it is doing.
        attempts: How often it was started here.
        started: When it was started last, in seconds of the monotonic clock.
        seconds: How long its last attempt took.
        reason: Why it failed.
        here: It was finished by this command, not before.
    """

    cell: Cell
    run: RunFolder
    state: State = "waiting"
    attempts: int = 0
    started: float = 0.0
    seconds: float = 0.0
    reason: str = ""
    here: bool = False

    @property
    def log(self) -> Path:
        """Return the file that holds the run's output."""
        return self.run.path / LOG


@dataclass
class Stop:
    """A signal that asks the grid to stop; the first saves, the second kills."""

    signum: int = 0
    count: int = 0

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Note a signal."""
        self.signum, self.count = signum, self.count + 1

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle SIGINT, SIGTERM and, unless the grid was started by nohup, SIGHUP for a while."""
        heard = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            heard.append(signal.SIGHUP)
        before = {s: signal.signal(s, self.handle) for s in heard}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)


Show: TypeAlias = Callable[["GridRun"], None]


@dataclass
class GridRun:
    """A grid at work.

    Attributes:
        runs: Folder of the run folders.
        cells: All cells.
        engine: Where they run.
        command: What starts a run, before the cell's own arguments.
        show: Called about once a second and after every change.
        retries: How often a cell that crashed is started again.
        stop: Asks the grid to stop.
        progress: How far every cell is.
    """

    runs: Path
    cells: Sequence[Cell]
    engine: Engine
    command: Sequence[str]
    show: Show
    retries: int = 2
    stop: Stop = field(default_factory=Stop)
    progress: list[Progress] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        # all methods and seeds of one sparsity before the next: a grid that is stopped early leaves
        # columns of a table that are whole
        levels = list(dict.fromkeys(cell.sparsity for cell in self.cells))
        ordered = sorted(self.cells, key=lambda cell: levels.index(cell.sparsity))
        self.progress = [Progress(cell, RunFolder(cell.folder)) for cell in ordered]
        for each in self.progress:
            self._settled(each)

    def of(self, *states: State) -> list[Progress]:
        """Return the cells in these states."""
        return [each for each in self.progress if each.state in states]

    def run(self) -> None:
        """Run what is missing until all is done, failed, or the grid was asked to stop."""
        try:
            while self.of("waiting", "running") and not self.stop.signum:
                self._fill()
                self.show(self)
                for job, status in self.engine.wait(_TICK):
                    self._ended(job, status)
            self._leave()
            self.show(self)
        finally:
            self.engine.close()

    def _fill(self) -> None:
        for each in self.of("waiting"):
            if len(self.of("running")) >= self.engine.slots:
                return
            if not self._settled(each):
                self._begin(each)

    def _settled(self, each: Progress) -> bool:
        """Return whether a cell needs nothing more: it has a result, or one that is damaged."""
        try:
            if each.run.read_result() is None:
                return False
            each.state = "done"
        except UserError as error:
            each.state, each.reason = "failed", str(error)
        return True

    def _must_wait(self, each: Progress) -> bool:
        """Return whether another process has the folder, or another cell does the same warm-up."""
        if each.run.in_use():
            return True
        key = each.cell.warmup_key
        if key is None or each.run.handoff.exists() or self._has_warmup(key):
            return False
        return any(
            other.cell.warmup_key == key and not other.run.handoff.exists()
            for other in self.of("running")
        )

    def _has_warmup(self, key: str) -> bool:
        return (self.runs / SHARED / key / "handoff.safetensors").is_file()

    def _begin(self, each: Progress) -> None:
        """Start a cell unless it has to wait; one whose folder cannot be used fails alone."""
        try:
            if self._must_wait(each):
                return
            # a config file edited since the cells were parsed is refused by the run itself
            each.run.keep_config(each.cell.config)
            each.log.open("ab").close()
        except (UserError, OSError) as error:
            each.state, each.reason = "failed", str(error)
            return
        self._start(each)

    def _start(self, each: Progress) -> None:
        cell = each.cell
        shared = self.runs / SHARED / cell.warmup_key if cell.warmup_key else None
        record = GridRecord(
            name=cell.grid, cell=cell.name, method=cell.method, axes=dict(cell.axes) or None
        )
        each.state, each.started, each.attempts = "running", time.monotonic(), each.attempts + 1
        command = [*self.command, *cell.arguments]
        self.engine.start(Job(cell.name, command, each.log, environment(record, shared)))

    def _ended(self, job: Job, status: int) -> None:
        each = next(p for p in self.of("running") if p.cell.name == job.name)
        each.seconds = time.monotonic() - each.started
        if self._settled(each):
            each.here = each.state == "done"
            return
        each.reason = describe(status)
        again = status != WRONG_INPUT and each.attempts <= self.retries
        each.state = "waiting" if again else "failed"

    def _leave(self) -> None:
        """End what runs, as the first signal asks; at once where there was a second."""
        running = self.of("running")
        if not running:
            return
        self.engine.stop(GRACE if self.stop.count < 2 else 0, lambda: self.stop.count > 1)
        for each in running:
            if not self._settled(each):
                each.state, each.reason = "stopped", "saved; the same command goes on"


def describe(status: int) -> str:
    """Return an exit status in words."""
    if status == 0:
        return "ended without a result"
    if status == WRONG_INPUT:
        return "wrong input (exit status 2), not tried again"
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"exit status {status}"


def last_lines(log: Path, count: int = 12) -> list[str]:
    """Return the last lines of a log that are not empty."""
    if not log.is_file():
        return []
    with log.open("rb") as file:
        file.seek(max(log.stat().st_size - 20_000, 0))
        text = file.read().decode(errors="replace")
    return [line.rstrip() for line in text.splitlines() if line.strip()][-count:]


@contextmanager
def held(runs: Path) -> Iterator[None]:
    """Hold the folder of a grid, so that no two commands run it at a time.

    Raises:
        UserError: Another command has it, or it cannot be written.
    """
    try:
        runs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{runs} cannot hold run folders ({error.strerror}): choose another with --runs"
        ) from error
    with lock(runs / ".lock") as ours:
        if not ours:
            raise UserError(f"another vpns grid is running in {runs}: wait for it, or stop it")
        yield


def write_plan(runs: Path, cells: Sequence[Cell]) -> None:
    """Write ``grid.json``: every cell that the grid has, so that a missing one can be named."""
    plan = {
        "grid": cells[0].grid,
        "cells": [
            {
                "cell": cell.name,
                "method": cell.method,
                "sparsity": cell.sparsity,
                "seed": cell.seed,
                "axes": dict(cell.axes),
            }
            for cell in cells
        ],
    }
    write_text(runs / "grid.json", json.dumps(plan, indent=1) + "\n")
