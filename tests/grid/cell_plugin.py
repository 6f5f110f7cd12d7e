"""Callbacks that interfere with cells of a grid, for ``vpns grid --plugins``."""

import json
import os
import signal
import time
from abc import ABC, abstractmethod
from pathlib import Path

import lightning.pytorch as pl


class AtBatches(pl.Callback, ABC):
    """Do something after each batch of a stage.

    Args:
        stage: Stage.
        flags: A folder for a file of each cell that it was done to.
    """

    def __init__(self, stage: str, flags: str) -> None:
        self.stage, self.flags = stage, Path(flags)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        if pl_module.name == self.stage:
            self.act(self.flags / json.loads(os.environ["VPNS_GRID"])["cell"])

    @abstractmethod
    def act(self, flag: Path) -> None:
        """Do it to the cell whose name the flag has."""


class KillCells(AtBatches):
    """Kill this process, once, if its cell is named.

    Args:
        cells: Parts of the names of cells.
        stage: Stage.
        flags: A folder for a file that each killed cell leaves.
    """

    def __init__(self, cells: list[str], stage: str, flags: str) -> None:
        super().__init__(stage, flags)
        self.cells = cells

    def act(self, flag: Path) -> None:
        if any(part in flag.name for part in self.cells) and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)


class HoldCells(AtBatches):
    """Wait until a file ``go`` lies beside the flags, or what started this process is gone."""

    def __init__(self, stage: str, flags: str) -> None:
        super().__init__(stage, flags)
        self.parent = os.getppid()

    def act(self, flag: Path) -> None:
        flag.touch()
        while not (self.flags / "go").exists() and os.getppid() == self.parent:
            time.sleep(0.05)
