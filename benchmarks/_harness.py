"""Compares functions fairly: interleaved rounds in one process, minimum and median of each."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple


class Timing(NamedTuple):
    """Seconds for one call."""

    min: float
    median: float


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
    for turn in range(warmup + rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return {
        name: Timing(min(values), statistics.median(values)) for name, values in seconds.items()
    }
