"""A Trainer and a data module small enough for a stage to run in a second."""

from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch import Tensor, nn
from torch.utils.data import DataLoader

from reference.toy_networks import ToyNet, toy_batches
from vpns_lightning.network import FrequencyMapping, PadPrompt, PromptedClassifier
from vpns_lightning.stages import Stage

Batch = tuple[Tensor, Tensor]
QUIET = [  # warnings that a Trainer without data workers, validation or logger gives by nature
    "ignore:.*does not have many workers.*",
    "ignore:.*no `val_dataloader`.*",
    "ignore:.*smaller than the logging interval.*",
    "ignore:.*You are trying to `self.log.*",
    "ignore:.*LeafSpec.*",
]


class ToyData(pl.LightningDataModule):
    """Fixed batches of each view, in a fixed order."""

    def __init__(self, **views: Sequence[Batch]) -> None:
        super().__init__()
        self.views = views

    def train_dataloader(self) -> CombinedLoader:
        loaders = {
            view: DataLoader(list(batches), batch_size=None) for view, batches in self.views.items()
        }
        return CombinedLoader(loaders, "min_size")


def views_of(batches: int, *, size: int = 10) -> dict[str, list[Batch]]:
    """Return batches of both views; the plain ones are other images."""
    return {
        "prompted": toy_batches(batches, size=size, seed=1),
        "plain": toy_batches(batches, size=size, seed=2),
    }


def new_network(
    *, slice_head: bool = True, backbone: nn.Module | None = None, **options: Any
) -> PromptedClassifier:
    """Return a toy network of 4 classes with a prompt, its mapping fitted to rows 7, 2, 0, 5."""
    mapping = FrequencyMapping(slice_head=slice_head)
    network = PromptedClassifier(
        backbone or ToyNet(), 4, prompt=PadPrompt(14, 3), mapping=mapping, **options
    )
    counts = torch.zeros(10, 4, dtype=torch.int64)
    counts[ROWS, torch.arange(4)] = torch.tensor([4, 3, 2, 1])
    network.fit_mapping(counts)
    return network


ROWS = [7, 2, 0, 5]


def recorded(stage: Stage, before: Callable[[], None] = lambda: None) -> list[float]:
    """Return a list that fills with the losses of a stage; call ``before`` ahead of each."""
    losses: list[float] = []
    loss_of = stage.loss

    def record(view: str, batch: Batch) -> Tensor:
        before()
        loss = loss_of(view, batch)
        losses.append(loss.item())
        return loss

    stage.loss = record  # type: ignore[method-assign]  # seen by the pruner too
    return losses


def new_trainer(epochs: int, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        **{
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": epochs,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **options,
        }
    )


def fit(stage: Stage, data: ToyData, **options: Any) -> pl.Trainer:
    """Train a stage for its epochs and return the Trainer."""
    trainer = new_trainer(stage.epochs, **options)
    trainer.fit(stage, datamodule=data)
    return trainer
