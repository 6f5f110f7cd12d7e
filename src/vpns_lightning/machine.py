"""The machine a run uses: which Trainer options can work, and how one is set up for a stage."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import DDPStrategy

from vpns_lightning.callbacks import check_precision
from vpns_lightning.data import ImageData
from vpns_lightning.errors import UserError
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.stages import Stage, rehearse

# each is expected here and would only make users look for a fault
EXPECTED_WARNINGS = (
    ".*does not have many workers which may be a bottleneck.*",  # cached images need none
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*number of training batches .* is smaller than the logging interval.*",  # epochs are logged
    ".*isinstance.treespec, LeafSpec.*",  # inside Lightning
    ".*It is recommended to use `self.log.*sync_dist=True.*",  # equal on all processes
    ".*broadcast_buffers. is deprecated.*",  # Lightning passes it on
    ".*Grad strides do not match bucket view strides.*",  # 1 x 1 kernels have two sets of strides
    ".*configure_optimizers. returned .None..*",  # pruners that train nothing
)


def check_run(
    network: PromptedClassifier,
    data: ImageData,
    machine: Mapping[str, Any],
    stages: Sequence[Stage],
) -> None:
    """Refuse what could only fail later.

    Raises:
        UserError: Class counts, image size, precision, strategy, an optimiser or a schedule do not
            fit, or there is no batch to train on.
    """
    check_precision(machine.get("precision"))
    if "spawn" in str(machine.get("strategy")) or "notebook" in str(machine.get("strategy")):
        raise UserError(
            f"strategy {machine['strategy']!r} starts processes that return no network: use ddp"
        )
    for key, neutral in (("gradient_clip_val", None), ("accumulate_grad_batches", 1)):
        if machine.get(key, neutral) not in (None, neutral):
            raise UserError(f"trainer.{key} has no effect on manual optimisation: leave it out")
    if machine.get("limit_train_batches") == 0 and any(stage.epochs for stage in stages):
        raise UserError(
            "trainer.limit_train_batches 0 leaves no batch to train on: set it to 1 or more, or "
            "the epochs of a stage that shall not train to 0"
        )
    if data.num_classes != network.num_classes:
        raise UserError(
            f"the network has {network.num_classes} classes, {data.name} has {data.num_classes}"
        )
    if network.prompt is not None:
        network.prompt.check_input_size(data.input_size)
    if any(stage.network is not network for stage in stages):
        raise UserError("all stages must hold the network that is passed to fit_stages")
    for stage in stages:
        rehearse(stage)


def tune_ddp(trainer: pl.Trainer, stage: Stage) -> None:
    """Set what DDP should do here, whichever way the user asked for it."""
    if not isinstance(trainer.strategy, DDPStrategy):
        return
    options = trainer.strategy._ddp_kwargs
    # masks are large buffers that are equal anyway; statistics are synchronised at the hand-off
    options.setdefault("broadcast_buffers", False)
    options.setdefault("gradient_as_bucket_view", True)
    if "plain" in stage.views and stage.network.has_prompt:
        # a plain step leaves the prompt without gradient
        options.setdefault("find_unused_parameters", True)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's remarks on hardware and products for a while; warnings still show."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for message in EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message)
        try:
            yield
        finally:
            logger.setLevel(level)


@contextmanager
def trainer_options_refused(
    faults: tuple[type[Exception], ...] = (MisconfigurationException,),
) -> Iterator[None]:
    """Say in one line what Lightning's Trainer does not take.

    Args:
        faults: Exceptions that mean this.

    Raises:
        UserError: In place of them.
    """
    try:
        yield
    except UserError:
        raise
    except faults as error:
        raise UserError(f"trainer: {error}") from error


def as_list(value: Any) -> list[Any]:
    """Return a Trainer argument that may be one thing, several, a switch, or None as a list."""
    if value is None or isinstance(value, bool):
        return []
    return list(value) if isinstance(value, Sequence) else [value]
