"""Which of several processes this is, known before any of them is connected; and its voice."""

from lightning.pytorch.utilities import rank_zero_only


def is_first_process() -> bool:
    """Return whether this process writes the files and prints."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


@rank_zero_only
def say(line: str) -> None:
    """Print a line on the first process."""
    print(line, flush=True)
