"""Progress: a live bar on a terminal, one line an epoch elsewhere."""

import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from vpns_lightning.stages import Stage
from vpns_lightning.stages.steps import log_interval

SHOWN = ("loss", "train_acc", "acc", "acc_plain", "sparsity", "mask_churn")


class StageProgress(ProgressBar):
    """Show stage, epoch, batches, time left and the metrics; metrics are read at log points."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._epoch_started = 0.0

    def disable(self) -> None:
        """Print nothing, as all processes but the first do."""
        self._enabled = False

    def enable(self) -> None:
        """Print."""
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar where there is a terminal."""
        # an epoch resumed in its middle does not start: its seconds count from here
        self._epoch_started = time.monotonic()
        console = Console()
        if not (self._enabled and console.is_terminal):
            return
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}"),
            console=console,
        )
        self._bar.start()
        total = (trainer.max_epochs or 1) * int(trainer.num_training_batches)
        done = trainer.current_epoch * int(trainer.num_training_batches)
        self._task = self._bar.add_task("", total=total, completed=done, metrics="")

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Name the epoch."""
        self._epoch_started = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, description=_title(trainer, pl_module))

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Advance; at log points show the epoch's running loss and accuracy."""
        if self._bar is None:
            return
        self._bar.advance(self._task)
        if (batch_idx + 1) % log_interval(trainer) == 0:
            assert isinstance(pl_module, Stage)
            means = pl_module.running_means()
            text = "  ".join(f"{name} {value:.3f}" for name, value in means.items())
            self._bar.update(self._task, metrics=text)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the epoch's metrics."""
        if not self._enabled:
            return
        assert isinstance(pl_module, Stage)
        metrics = trainer.callback_metrics
        known: dict[str, Any] = {name: metrics.get(f"{pl_module.name}/{name}") for name in SHOWN}
        known |= pl_module.running_means()
        text = "  ".join(f"{name} {float(v):.4f}" for name, v in known.items() if v is not None)
        if self._bar is not None:
            self._bar.update(self._task, metrics=text)
        else:
            seconds = time.monotonic() - self._epoch_started
            print(f"{_title(trainer, pl_module)}  {text}  {seconds:.1f} s", flush=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Leave the terminal as it was."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _title(trainer: pl.Trainer, stage: pl.LightningModule) -> str:
    return f"{stage.name} epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
