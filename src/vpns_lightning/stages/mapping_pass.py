"""Fitting the label mapping: one pass over the training images, counters only."""

from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from vpns_lightning.errors import UserError
from vpns_lightning.network import PromptedClassifier


def fit_mapping(
    network: PromptedClassifier,
    trainer: pl.Trainer,
    *,
    prompted: bool = False,
    augmented: bool = False,
) -> None:
    """Fit the network's label mapping on the training images of the trainer's data module.

    Works before Lightning has moved or wrapped anything. Counts are summed over all processes, so
    every process ends with the same mapping.

    Args:
        network: The network, with all its source classes.
        trainer: In ``fit``; gives device, precision, processes, and data.
        prompted: Show the images with the prompt.
        augmented: Crop and flip the images.

    Raises:
        UserError: A pass is needed but the trainer has no data module.
    """
    if not network.mapping.needs_counts:
        network.fit_mapping()
        return
    data = getattr(trainer, "datamodule", None)
    if not hasattr(data, "mapping_dataloader"):
        raise UserError(
            "the label mapping is not fitted and there is no data module to fit it on: pass one, "
            "or call network.fit_mapping(network.count_predictions(batches)) first"
        )
    device = trainer.strategy.root_device
    network.to(device)
    with trainer.precision_plugin.forward_context():
        batches = _on_device(data, trainer, device, augmented)
        counts = network.count_predictions(batches, prompted=prompted)
    if trainer.world_size > 1:
        torch.distributed.all_reduce(counts)
    network.fit_mapping(counts)


def _on_device(
    data: Any, trainer: pl.Trainer, device: torch.device, augmented: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    silent = not (trainer.is_global_zero and Console().is_terminal)
    loader = data.mapping_dataloader(augmented=augmented)
    for batch in track(loader, "fitting the label mapping", disable=silent, transient=True):
        images, labels, rows = (part.to(device, non_blocking=True) for part in batch)
        yield data.mapping_transform(images, rows, augmented=augmented), labels
