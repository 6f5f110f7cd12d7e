"""A logger that fails is left out, once it has been said; training never notices."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_warn

# what Lightning and this package call of a logger while a run lasts
CALLED = (
    "log_metrics",
    "log_hyperparams",
    "log_graph",
    "save",
    "finalize",
    "after_save_checkpoint",
)
_said: set[tuple[type[Logger], str]] = set()


@contextmanager
def harmless(logger: Logger, what: str) -> Iterator[None]:
    """Turn whatever goes wrong in a logger into one warning.

    Args:
        logger: The logger.
        what: What it was asked to do.
    """
    try:
        yield
    except Exception as error:  # loggers are other people's, and raise what they like
        reason = " ".join(str(error).split()) or type(error).__name__
        key = (type(logger), reason)  # every stage has a logger of its own
        if key not in _said:
            _said.add(key)
            rank_zero_warn(
                f"{type(logger).__name__} could not {what} ({reason}); the run goes on, and "
                "metrics.csv in the run folder has every number"
            )


def opened(loggers: Sequence[Logger]) -> list[Logger]:
    """Return those loggers that could be started, each so that no failure of it reaches training.

    Args:
        loggers: Loggers of a Trainer.
    """
    usable: list[Logger] = []
    for logger in loggers:
        with harmless(logger, "start, and is left out"):
            if isinstance(logger, WandbLogger):
                # Lightning hands W&B this argument whatever it is given, and W&B warns of that
                logger._wandb_init.pop("anonymous", None)
            # Lightning would ask for it too, and end the run where that fails
            _ = getattr(logger, "experiment", None)
            _protect(logger)
            usable.append(logger)
    return usable


def _protect(logger: Logger) -> None:
    """Replace the methods of this one logger; a wrapping class would fool ``isinstance``."""
    for name in CALLED:
        method = getattr(logger, name)
        if not hasattr(method, "__wrapped_by_vpns__"):
            setattr(logger, name, _protected(logger, method))


def _protected(logger: Logger, method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def protected(*args: Any, **kwargs: Any) -> Any:
        with harmless(logger, method.__name__.replace("_", " ")):
            return method(*args, **kwargs)
        return None

    protected.__wrapped_by_vpns__ = True  # type: ignore[attr-defined]  # a mark on a function
    return protected
