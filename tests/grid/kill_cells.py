"""A callback that kills chosen cells of a grid once each, for ``vpns grid --plugins``."""

import json
import os
import signal
from pathlib import Path

import lightning.pytorch as pl


class KillCells(pl.Callback):
    """Kill this process at the first batch of a stage, if its cell is named, once.

    Args:
        cells: Parts of the names of cells.
        stage: Stage.
        flags: A folder for a file that each killed cell leaves.
    """

    def __init__(self, cells: list[str], stage: str, flags: str) -> None:
        self.cells, self.stage, self.flags = cells, stage, Path(flags)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        cell = json.loads(os.environ["VPNS_GRID"])["cell"]
        flag = self.flags / cell
        named = any(part in cell for part in self.cells)
        if named and pl_module.name == self.stage and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
