"""Passes over the training images without gradients: for label mapping and batch statistics."""

from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from vpns_lightning.base.errors import UserError
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
    network.to(trainer.strategy.root_device)
    with trainer.precision_plugin.forward_context():
        batches = training_images(
            trainer,
            "fitting the label mapping",
            "the label mapping is not fitted; fit it first with network.fit_mapping("
            "network.count_predictions(batches))",
            augmented=augmented,
        )
        counts = network.count_predictions(batches, prompted=prompted)
    if trainer.world_size > 1:
        torch.distributed.all_reduce(counts)
    network.fit_mapping(counts)


def recalibrate(network: PromptedClassifier, trainer: pl.Trainer) -> None:
    """Measure the statistics of batch normalisation again, on plain training images.

    Statistics become the mean over batches; over all processes, the mean of theirs. Nothing else
    changes.

    Args:
        network: The network.
        trainer: In ``fit``; gives device, precision, processes, and data.

    Raises:
        UserError: The trainer has no data module.
    """
    device = trainer.strategy.root_device
    network.to(device)
    with trainer.precision_plugin.forward_context():
        batches = training_images(
            trainer,
            "measuring batch normalisation's statistics",
            "batch normalisation's statistics are to be measured again",
        )
        update_bn(batches, _Plain(network), device)
    if trainer.world_size > 1:
        for name, buffer in network.backbone.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                torch.distributed.all_reduce(buffer)
                buffer.div_(trainer.world_size)


class _Plain(nn.Module):
    """The network without its prompt."""

    def __init__(self, network: PromptedClassifier) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images, prompted=False)
        return logits


def training_images(
    trainer: pl.Trainer, title: str, needed: str, *, augmented: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images (N, 3, i, i) in [0, 1] and labels (N,) of this process, once, on its device.

    Args:
        trainer: In ``fit``, with a data module.
        title: Of the progress bar.
        needed: What they are needed for, for the error.
        augmented: Crop and flip the images.

    Raises:
        UserError: The trainer has no data module.
    """
    data: Any = getattr(trainer, "datamodule", None)
    if not hasattr(data, "mapping_dataloader"):
        raise UserError(f"{needed}, or pass a data module with training images: there is none")
    device = trainer.strategy.root_device
    silent = not (trainer.is_global_zero and Console().is_terminal)
    loader = data.mapping_dataloader(augmented=augmented)
    for batch in track(loader, title, disable=silent, transient=True):
        images, labels, rows = (part.to(device, non_blocking=True) for part in batch)
        yield data.mapping_transform(images, rows, augmented=augmented), labels
