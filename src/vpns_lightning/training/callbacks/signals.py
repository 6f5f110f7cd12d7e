"""Stopping well: a signal saves and leaves at the next batch; SLURM's SIGUSR1 also requeues."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from vpns_lightning.base.processes import say
from vpns_lightning.base.stopping import StopRequest
from vpns_lightning.stages.steps import log_interval


class SignalGuard(pl.Callback):
    """Save and leave when the run is asked to stop; the same command then resumes at that batch.

    Args:
        stop: Shared by all stages of a run.
        path: Where the stage's checkpoint is written.
    """

    def __init__(self, stop: StopRequest, path: Path) -> None:
        self.stop = stop
        self.path = path

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals back from Lightning, whose handlers would not save."""
        self.stop.listen()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Answer signals after this batch; one that came before it has lost nothing by ending."""
        self.stop.training = True

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save and leave, if asked; processes agree at log points."""
        last = batch_idx + 1 == trainer.num_training_batches
        if last or not self._agreed(trainer, batch_idx):
            return
        pl_module.check_finite()  # type: ignore[operator]  # every Stage has it
        trainer.save_checkpoint(self.path, weights_only=False)
        self._leave(trainer, f"batch {batch_idx + 1} of epoch {trainer.current_epoch + 1}")

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave, if asked since the checkpoint of the last epoch."""
        if trainer.current_epoch > 0 and self._agreed(trainer, -1):
            self._leave(trainer, f"epoch {trainer.current_epoch}")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave, if asked since the last batch; from here on a signal ends the process at once."""
        if self._agreed(trainer, -1):
            self._leave(trainer, "its last epoch")
        self.stop.training = False

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Stop noting signals after an error."""
        self.stop.training = False

    def _agreed(self, trainer: pl.Trainer, batch_idx: int) -> int:
        if trainer.world_size == 1:
            return self.stop.signum
        if (batch_idx + 1) % log_interval(trainer):
            return 0
        flag = torch.tensor(self.stop.signum, device=trainer.strategy.root_device)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        self.stop.signum = int(flag)
        return self.stop.signum

    def _leave(self, trainer: pl.Trainer, place: str) -> None:
        trainer.strategy.checkpoint_io.teardown()
        say(f"stopped after {place}, saved in {self.path}")
        self.stop.leave(self.stop.signum, wait=lambda: trainer.strategy.barrier("stop"))
