"""Seconds of two networks side by side: interleaved rounds, so that a busy machine slows both."""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

MIN_ROUNDS = 5


class Rounds(NamedTuple):
    """Seconds of every timed call, round by round.

    Attributes:
        dense: Of the dense network.
        pruned: Of the pruned network, in the same rounds.
        dense_processor: Processor time of all threads in the calls of the dense network.
        pruned_processor: The same of the pruned network; both say more on a busy machine.
    """

    dense: list[float]
    pruned: list[float]
    dense_processor: list[float]
    pruned_processor: list[float]

    def medians(self) -> tuple[float, float]:
        """Return the median seconds of the dense and of the pruned network."""
        return statistics.median(self.dense), statistics.median(self.pruned)

    def ratios(self) -> list[float]:
        """Return how many times faster the pruned network was in each round."""
        return [dense / pruned for dense, pruned in zip(self.dense, self.pruned, strict=True)]

    def speedup(self) -> float:
        """Return how many times faster the pruned network is: the median over the rounds.

        Both calls of a round lie next to each other, so what slows a machine for a while slows
        both; the medians of all rounds need not stand in this very ratio.
        """
        return statistics.median(self.ratios())

    def processor(self) -> tuple[float, float]:
        """Return the median processor seconds of the dense and of the pruned network."""
        return statistics.median(self.dense_processor), statistics.median(self.pruned_processor)

    def spread(self) -> tuple[float, float]:
        """Return the lower and upper quartile of the speed-up over the rounds."""
        lower, _, upper = statistics.quantiles(self.ratios(), n=4, method="inclusive")
        return lower, upper


def interleave(
    dense: Callable[[], object],
    pruned: Callable[[], object],
    *,
    warmup: int,
    rounds: int,
    seconds: float,
    wait: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Rounds:
    """Call both in turn, the other one first in every second round.

    Args:
        dense: Answers one batch with the dense network.
        pruned: Answers the same batch with the pruned network.
        warmup: Calls of each before the clock counts; fewer once a quarter of ``seconds`` is spent.
        rounds: Timed calls of each.
        seconds: No further round begins after this time, but five are always taken.
        wait: Returns once the device has finished what it was given.
        clock: Seconds since some moment.
    """
    begin = clock()
    for turn in range(warmup):
        if turn and clock() - begin > seconds / 4:
            break
        dense()
        pruned()
    wait()
    times: list[list[float]] = [[], [], [], []]
    begin = clock()
    for turn in range(max(rounds, MIN_ROUNDS)):
        if turn >= MIN_ROUNDS and clock() - begin > seconds:
            break
        for side in (0, 1) if turn % 2 == 0 else (1, 0):
            start, start_processor = clock(), time.process_time()
            (dense, pruned)[side]()
            wait()
            times[side].append(clock() - start)
            times[side + 2].append(time.process_time() - start_processor)
    return Rounds(*times)
