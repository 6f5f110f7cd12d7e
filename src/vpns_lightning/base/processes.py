"""Which of several processes this is, known before any of them is connected; and its voice."""

import sys
from collections.abc import Callable
from functools import cache
from typing import TypeVar

from lightning.pytorch.utilities import rank_zero_only

Answer = TypeVar("Answer")


def is_first_process() -> bool:
    """Return whether this process writes the files and prints."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


@rank_zero_only
def say(line: str) -> None:
    """Print a line on the first process."""
    print(line, flush=True)


@cache
def note(line: str) -> None:
    """Say once what a user may want to change, beside what a command prints for others to read."""
    if is_first_process():
        print(line, file=sys.stderr, flush=True)


def decided(ask: Callable[[], Answer]) -> Answer:
    """Return what the first process finds; processes that are not connected each ask themselves.

    Another process, or another machine, may see a file before or after the first one does.

    Args:
        ask: Looks; called on the first process alone where they are connected.
    """
    from torch import distributed  # a second of import, which help does not need

    if not (distributed.is_available() and distributed.is_initialized()):
        return ask()
    answers = [ask() if distributed.get_rank() == 0 else None]
    distributed.broadcast_object_list(answers)
    answer: Answer = answers[0]  # type: ignore[assignment]  # the first has asked
    return answer
