"""Compares functions fairly: interleaved rounds in one process, minimum and median of each."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

# what glibc reads at start: keep freed memory instead of returning it to the system
HEAP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
# what OpenMP reads at start: threads that wait for each other sleep
QUIET = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}


class Timing(NamedTuple):
    """Seconds for one call: on the clock, and of all threads' processor time."""

    min: float
    median: float
    cpu: float = 0.0


class Figure(NamedTuple):
    """One measured figure and the goal it is held against.

    Attributes:
        name: What was measured.
        goal: The bound.
        best: From the fastest round of each side; one reading where nothing is timed.
        median: From the medians; the goal is held against this.
        unit: "x" for a ratio.
        at_least: The goal is a lower bound, not an upper one.
        note: What was compared, or why there is no measurement.
    """

    name: str
    goal: float
    best: float
    median: float
    unit: str = "x"
    at_least: bool = False
    note: str = ""

    def met(self) -> bool:
        """Return whether the goal is met."""
        return self.median >= self.goal if self.at_least else self.median <= self.goal

    def line(self) -> str:
        """Return one row of a table."""
        sign = ">=" if self.at_least else "<="
        goal = f"{sign} {self.goal:g} {self.unit}"
        verdict = "pass" if self.met() else "MISS"
        return f"{self.name:56} {goal:>12} {self.best:10.3f} {self.median:10.3f}  {verdict}"


def header() -> str:
    """Return the head of a table of :meth:`Figure.line`."""
    return f"{'figure':56} {'goal':>12} {'min':>10} {'median':>10}"


def interleave(
    functions: Mapping[str, Callable[[], object]], rounds: int = 5, warmup: int = 1
) -> dict[str, Timing]:
    """Call all functions in turn, `rounds` times, so that a busy machine slows all alike.

    Args:
        functions: What to compare, by name.
        rounds: Timed calls of each function.
        warmup: Calls of each function before that.

    Returns:
        Timing of each function, by name.
    """
    print(f"comparing {' / '.join(functions)}: {warmup} + {rounds} interleaved rounds", flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    cpu: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(warmup + rounds):
        for name, function in functions.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            function()
            if turn >= warmup:
                cpu[name].append(time.process_time() - start_cpu)
                seconds[name].append(time.perf_counter() - start)
    return {
        name: Timing(min(values), statistics.median(values), statistics.median(cpu[name]))
        for name, values in seconds.items()
    }


def show(timings: Mapping[str, Timing]) -> None:
    """Print every timing in milliseconds."""
    for name, (best, median, cpu) in timings.items():
        print(
            f"  {name:28} min {best * 1e3:9.2f} ms   median {median * 1e3:9.2f} ms   "
            f"processor time {cpu * 1e3:9.2f} ms",
            flush=True,
        )


def ratio(
    name: str,
    goal: float,
    ours: Timing,
    theirs: Timing,
    *,
    at_least: bool = False,
    note: str = "",
) -> Figure:
    """Return ours over theirs (seconds), or with ``at_least`` how many times faster ours is."""
    top, bottom = (theirs, ours) if at_least else (ours, theirs)
    return Figure(name, goal, top.min / bottom.min, top.median / bottom.median, "x", at_least, note)


def parser(description: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks share."""
    parsed = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parsed.add_argument("--rounds", type=int, default=rounds, help="timed rounds of each side")
    parsed.add_argument(
        "--quick", action="store_true", help="few rounds: does it run, not how fast"
    )
    parsed.add_argument("--json", type=Path, help="write the figures here too")
    return parsed


def report(figures: Sequence[Figure], path: Path | None = None) -> None:
    """Print the figures and, where a path is given, write them as JSON."""
    print(header())
    for figure in figures:
        print(figure.line(), flush=True)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([figure._asdict() for figure in figures], indent=1) + "\n")


def settle(*, heap: bool = True) -> None:
    """Start this program again, once, with waiting threads asleep and, if asked, a heap that stays.

    Without the latter, first-touch page faults of large tensors, which depend on what ran before,
    cost more than the arithmetic. Both sides of a comparison run under the same settings.

    Args:
        heap: Let glibc keep freed memory; has no effect elsewhere.
    """
    wanted = QUIET | HEAP if heap else QUIET
    if any(os.environ.get(key) != value for key, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | wanted)
