"""Stopping well: SIGTERM and SLURM's SIGUSR1 save and leave at the next batch."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch

from vpns_lightning.stages.steps import log_interval


class StopRequest:
    """Remembers a signal that asks the run to stop.

    While a stage trains, a signal is noted and answered after the batch at hand; at any other time,
    or the second time, it ends the process at once with 128 + signal number.
    """

    def __init__(self) -> None:
        self.signum = 0
        self.training = False

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Note a signal, or leave."""
        if not self.training or self.signum:
            raise SystemExit(128 + signum)
        self.signum = signum

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle SIGTERM, and SIGUSR1 inside a SLURM job, in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {s: signal.signal(s, self.handle) for s in _signals()}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)


def _signals() -> list[signal.Signals]:
    in_slurm = "SLURM_JOB_ID" in os.environ
    return [signal.SIGTERM, signal.SIGUSR1] if in_slurm else [signal.SIGTERM]


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
        self.stop.training = True
        if threading.current_thread() is threading.main_thread():
            for signum in _signals():
                signal.signal(signum, self.stop.handle)

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
        self._leave(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave, if asked since the checkpoint of the last epoch."""
        if trainer.current_epoch > 0 and self._agreed(trainer, -1):
            self._leave(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A stage that has ended is handed on; a signal then ends the process at once."""
        self.stop.training = False

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Answer a signal that came too late for this stage, or stop listening after an error."""
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

    def _leave(self, trainer: pl.Trainer) -> None:
        trainer.strategy.checkpoint_io.teardown()
        trainer.strategy.barrier("stop")
        if self.stop.signum == signal.SIGUSR1 and trainer.is_global_zero:
            job = os.environ["SLURM_JOB_ID"]
            if "SLURM_ARRAY_JOB_ID" in os.environ:
                job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
            subprocess.run(["scontrol", "requeue", job], check=True)
        raise SystemExit(128 + self.stop.signum)
