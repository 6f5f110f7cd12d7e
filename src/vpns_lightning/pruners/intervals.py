"""How many iterations lie between two acts of a schedule."""

import warnings

from vpns_lightning.pruners.base import StageLike


def interval_of(stage: StageLike, every: int, span: float, idle: str) -> int:
    """Return ``every``, or a tenth of the span if that many would never let the schedule act.

    At the stage's first iteration the first process says so.

    Args:
        stage: The stage.
        every: Iterations between two acts, as asked for.
        span: Iterations in which the schedule may act, from the stage's first.
        idle: What would happen, for the warning: "the topology would never move".
    """
    if every < span:
        return every
    scaled = max(1, int(span / 10))
    before, total = stage.progress()
    if before == 0 and stage.global_rank == 0:
        remedy = f"every {scaled} instead" if scaled < span else "it is too short for any"
        warnings.warn(
            f"with every={every} {idle} in this stage of {total} iterations: {remedy}", stacklevel=2
        )
    return scaled
