"""Checkpoints: how long training waits for one, and how long it takes to be on the disk.

    python benchmarks/checkpoint.py

A mask-finding stage of ResNet-18 trains a few epochs under a Trainer with the run's own checkpoint
callback. The first save, which allocates the copy, is reported beside the later ones, which reuse
it. The file is loaded again and compared with the state in memory.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from _harness import Figure, parser, report, settle
from counts import Batches, finding, new_network, silence

from vpns_lightning.training.callbacks import AtomicCheckpointIO, EpochCheckpoint


class Timed(EpochCheckpoint):
    """Notes how long each save holds training up, and how long it takes in all."""

    def __init__(self, path: Path, writer: AtomicCheckpointIO) -> None:
        super().__init__(path)
        self.writer = writer
        self.blocking: list[float] = []
        self.complete: list[float] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save; then wait for the disk, off the clock, as an epoch's training would."""
        start = time.perf_counter()
        super().on_train_epoch_end(trainer, pl_module)
        self.blocking.append(time.perf_counter() - start)
        self.writer.flush()
        self.complete.append(time.perf_counter() - start)


def train(folder: Path, epochs: int, accelerator: str = "cpu", backbone: str = "resnet18") -> Timed:
    """Train, saving at each epoch; return the times."""
    writer = AtomicCheckpointIO()
    timed = Timed(folder / "find.ckpt", writer)
    stage = finding(new_network(backbone))
    stage.epochs = epochs
    with silence():
        trainer = pl.Trainer(
            accelerator=accelerator,
            devices=1,
            max_epochs=epochs,
            callbacks=[timed],
            plugins=[writer],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(stage, datamodule=Batches())
    saved: dict[str, Any] = torch.load(timed.path, weights_only=True)["state_dict"]
    for name, value in stage.state_dict().items():
        assert torch.equal(saved[name], value.cpu()), f"{name} differs in the checkpoint"
    return timed


def main() -> None:
    """Train, compare, print."""
    settle(heap=False)
    args = parser(__doc__, rounds=8).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        timed = train(Path(folder), 3 if args.quick else args.rounds + 1)
        size = timed.path.stat().st_size / 2**20
    first, *later = timed.blocking
    print(
        f"checkpoint of {size:.0f} MB: the first held training up for {first:.3f} s; on the disk "
        f"after {statistics.median(timed.complete):.2f} s"
    )
    name = "training waits for a checkpoint"
    report([Figure(name, 0.05, min(later), statistics.median(later), "s")], args.json)


if __name__ == "__main__":
    main()
