"""Progress: a line for each finished epoch, and below them a live bar where there is a terminal."""

import time
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from vpns_lightning.stages import Stage
from vpns_lightning.stages.steps import log_interval

# cells of the bar's line that are always there: percentage, time left, and what parts them
FIXED = len(" 100% 0:00:00 ")
BAR = (8, 40)  # cells of the bar itself; it goes before a metric does
SHOWN = ("loss", "train_acc", "acc", "acc_plain", "sparsity", "mask_churn")


class StageProgress(ProgressBar):
    """Show stage, epoch, batches, time left and the metrics; metrics are read at log points."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._bar: Progress | None = None
        self._bar_column = BarColumn()
        self._task = TaskID(0)
        self._metrics: list[str] = []
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
        self._bar_column = BarColumn()
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            self._bar_column,
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}"),
            console=console,
            transient=True,  # the lines of the epochs stay
        )
        total = (trainer.max_epochs or 1) * int(trainer.num_training_batches)
        done = trainer.current_epoch * int(trainer.num_training_batches)
        self._task = self._bar.add_task("", total=total, completed=done, metrics="")
        self._metrics = []
        self._show(_title(trainer, pl_module))
        self._bar.start()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Name the epoch."""
        self._epoch_started = time.monotonic()
        self._show(_title(trainer, pl_module))

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
            self._metrics = [f"{name} {value:.3f}" for name, value in means.items()]
            self._show(_title(trainer, pl_module))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave a line of the epoch's metrics."""
        if not self._enabled:
            return
        assert isinstance(pl_module, Stage)
        metrics = trainer.callback_metrics
        known: dict[str, Any] = {name: metrics.get(f"{pl_module.name}/{name}") for name in SHOWN}
        known |= pl_module.running_means()
        parts = [f"{name} {float(v):.4f}" for name, v in known.items() if v is not None]
        title, last = _title(trainer, pl_module), f"{time.monotonic() - self._epoch_started:.1f} s"
        if self._bar is None:
            print("  ".join([title, *parts, last]), flush=True)
            return
        console = self._bar.console
        room = console.width - len(f"{title}  {last}")
        text = "  ".join([title, *_fitting(parts, room), last])
        console.print(text, no_wrap=True, crop=True, highlight=False, markup=False)

    def _show(self, title: str) -> None:
        """Show what fits: the title, then the last metrics, and a bar in what is left."""
        if self._bar is None:
            return
        room = self._bar.console.width - FIXED - len(title)
        shown = _fitting(self._metrics, room - 1)
        left = room - sum(len(part) + 2 for part in shown) - 2
        self._bar_column.bar_width = min(left, BAR[1]) if left >= BAR[0] else 0
        self._bar.update(self._task, description=title, metrics="  ".join(shown))

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


def _fitting(parts: Sequence[str], room: int) -> list[str]:
    """Return the first parts that fit into so many cells, two before each."""
    shown: list[str] = []
    for part in parts:
        room -= len(part) + 2
        if room < 0:
            break
        shown.append(part)
    return shown
