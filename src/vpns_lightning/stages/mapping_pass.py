"""Fitting the label mapping: one pass over the training images, counters only."""

from collections.abc import Iterable, Iterator
from typing import Literal

import lightning.pytorch as pl
import torch
from rich.progress import track
from torch import Tensor

from vpns_lightning.errors import UserError
from vpns_lightning.network import PromptedClassifier

MappingImages = Literal["evaluation", "augmented"]


def fit_mapping(
    network: PromptedClassifier, trainer: pl.Trainer, *, prompted: bool = False
) -> None:
    """Fit the network's label mapping on the training images of the trainer's data module.

    Works before Lightning has moved or wrapped anything. Counts are summed over all processes, so
    every process ends with the same mapping.

    Args:
        network: The network, with all its source classes.
        trainer: In ``fit``; gives device, precision, processes, and data.
        prompted: Show the images with the prompt.

    Raises:
        UserError: A pass is needed but the trainer has no data module.
    """
    if not network.mapping.needs_counts:
        network.fit_mapping()
        return
    loader = getattr(trainer.datamodule, "mapping_dataloader", None)  # type: ignore[attr-defined]  # set by Trainer.fit
    if loader is None:
        raise UserError(
            "the label mapping is not fitted and there is no data module to fit it on: pass one, "
            "or call network.fit_mapping(network.count_predictions(batches)) first"
        )
    device = trainer.strategy.root_device
    network.to(device)
    with trainer.precision_plugin.forward_context():
        batches = _on_device(loader(), trainer, device)
        counts = network.count_predictions(batches, prompted=prompted)
    if trainer.world_size > 1:
        torch.distributed.all_reduce(counts)
    network.fit_mapping(counts)


def _on_device(
    loader: Iterable[tuple[Tensor, ...]], trainer: pl.Trainer, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    transform = trainer.datamodule.eval_transform  # type: ignore[attr-defined]  # checked by the caller
    silent = not trainer.is_global_zero or not trainer.progress_bar_callback
    for images, labels, *_ in track(loader, "fitting the label mapping", disable=silent):
        yield transform(images.to(device, non_blocking=True)), labels.to(device)
