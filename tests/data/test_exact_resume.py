"""A run stopped in the middle of an epoch goes on with exactly the batches it would have seen."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from vpns_lightning.base.batches import Stream
from vpns_lightning.data import Digits

BATCHES = 4  # of 400 images in an epoch of 1,437


class Watcher(LightningModule):
    """Notes what it trains on, and saves a checkpoint after a given step."""

    streams = (Stream("prompted"), Stream("plain"))
    unaugmented: tuple[str, ...] = ()
    name, seed_name = "find", ""

    def __init__(
        self, checkpoint: Path | None = None, after: int = -1, *, stop: bool = True
    ) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.checkpoint = checkpoint
        self.after = after
        self.stop = stop
        self.seen: list[tuple[int, int, float, float]] = []

    def training_step(self, batch: dict[str, tuple[Tensor, Tensor]], batch_idx: int) -> Tensor:
        weights = torch.arange(1, 1 + len(batch["prompted"][1]), dtype=torch.float64)
        sums = [
            float((images.double().sum((1, 2, 3)) * weights).sum()) for images, _ in batch.values()
        ]
        self.seen.append((self.current_epoch, batch_idx, sums[0], sums[1]))
        return self.weight * 0

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Do nothing: validation must not disturb the training loader."""

    def on_train_batch_end(self, *args: object) -> None:
        if len(self.seen) == self.after and self.checkpoint:
            self.trainer.save_checkpoint(self.checkpoint)
            self.trainer.should_stop = self.stop

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def run(
    watcher: Watcher, workers: int, resume: Path | None = None
) -> list[tuple[int, int, float, float]]:
    data = Digits(input_size=8, batch_size=400, num_workers=workers)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(watcher, datamodule=data, ckpt_path=resume, weights_only=True)
    return watcher.seen


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("after", [1, 3, 4, 5, 8, 10, 12])
def test_resuming_continues_with_the_very_next_batch(
    tmp_path: Path, after: int, workers: int
) -> None:
    whole = run(Watcher(), workers=0)
    assert [entry[:2] for entry in whole] == [(e, b) for e in range(3) for b in range(BATCHES)]
    checkpoint = tmp_path / "stopped.ckpt"
    before = run(Watcher(checkpoint, after), workers)
    resumed = run(Watcher(), workers, resume=checkpoint)
    assert before[:after] == whole[:after]
    assert resumed == whole[after:]


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_after_an_epoch_begins_the_next(tmp_path: Path, workers: int) -> None:
    class AtEpochEnd(Watcher):
        def on_train_epoch_end(self) -> None:
            if self.current_epoch == 0:
                self.trainer.save_checkpoint(tmp_path / "epoch.ckpt")

    whole = run(AtEpochEnd(), workers)
    assert run(Watcher(), workers, resume=tmp_path / "epoch.ckpt") == whole[BATCHES:]


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_after_validation_begins_the_next_epoch(tmp_path: Path, workers: int) -> None:
    class AfterValidation(Watcher):
        def on_validation_end(self) -> None:
            if self.current_epoch == 1 and not self.trainer.sanity_checking:
                self.trainer.save_checkpoint(tmp_path / "validated.ckpt")

    whole = run(AfterValidation(), workers)
    assert run(Watcher(), workers, resume=tmp_path / "validated.ckpt") == whole[2 * BATCHES :]


def test_another_batch_size_in_mid_epoch_is_reported(tmp_path: Path) -> None:
    checkpoint = tmp_path / "stopped.ckpt"
    run(Watcher(checkpoint, 2), 0)
    data = Digits(input_size=8, batch_size=300)
    trainer = Trainer(accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False)
    with pytest.warns(UserWarning, match="some of its images will be seen twice"):
        trainer.fit(Watcher(), datamodule=data, ckpt_path=checkpoint, weights_only=True)
