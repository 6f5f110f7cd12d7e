"""What a step of training looks at, what it draws from, and when it is logged."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import lightning.pytorch as pl

from vpns_lightning.base.errors import UserError, nearest

VIEWS = ("prompted", "plain")


def log_interval(trainer: pl.Trainer) -> int:
    """Return how many steps lie between two log points, at least 1."""
    return max(int(getattr(trainer, "log_every_n_steps", 1)), 1)


def check_views(views: Sequence[str], unaugmented: Sequence[str]) -> None:
    """Refuse views that a step cannot be taken on.

    Raises:
        UserError: A view is unknown, repeated, or missing.
    """
    for view in [*views, *unaugmented]:
        if view not in VIEWS:
            raise UserError(f"view {view!r} is not one of {', '.join(VIEWS)}{nearest(view, VIEWS)}")
    if not views or len(set(views)) != len(views):
        raise UserError(f"views must name each view at most once and at least one, got {views}")


@contextmanager
def refusing(
    key: str, faults: tuple[type[Exception], ...] = (TypeError, ValueError)
) -> Iterator[None]:
    """Say in one line which key of a config names what refuses its arguments.

    Args:
        key: The key.
        faults: Exceptions that mean this.

    Raises:
        UserError: In place of them.
    """
    try:
        yield
    except UserError:
        raise
    except faults as error:
        raise UserError(f"{key}: {error}") from error
