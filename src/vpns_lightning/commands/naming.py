"""Saying which part of a Trainer has failed, where that is one that a config names."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler

from vpns_lightning.base.errors import UserError

KINDS: dict[str, type] = {
    "trainer.callbacks": Callback,
    "trainer.logger": Logger,
    "trainer.profiler": Profiler,
}
OURS = "vpns_lightning."


@contextmanager
def naming_parts() -> Iterator[None]:
    """Say in one line which callback, logger or profiler has raised an error.

    Raises:
        UserError: In place of what such a part raised, when it was built or at work.
    """
    try:
        yield
    except Exception as error:
        for cause in _causes(error):
            part = _part(cause.__traceback__)
            if part is not None and not isinstance(cause, UserError):
                key, name = part
                kind, said = type(cause).__name__, " ".join(str(cause).split())
                raise UserError(
                    f"{key}: {name} raised {kind} ({said}); set VPNS_DEBUG=1 to see where"
                ) from error
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what led to it: that of a constructor has been put under its key."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _part(traceback: TracebackType | None) -> tuple[str, str] | None:
    """Return key and class of the part whose code was running, the innermost of several."""
    found = None
    while traceback is not None:
        running = traceback.tb_frame.f_locals.get("self")
        kind = type(running)
        if not kind.__module__.startswith(OURS):
            keys = [key for key, base in KINDS.items() if isinstance(running, base)]
            found = (keys[0], kind.__name__) if keys else found
        traceback = traceback.tb_next
    return found
