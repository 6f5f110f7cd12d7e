"""A callback that keeps cells of a grid at work for a while, for ``vpns grid --plugins``."""

import json
import os
import time
from pathlib import Path

import lightning.pytorch as pl


class HoldCells(pl.Callback):
    """Stay in the first batch of a stage until all may go on, or what started the run is gone.

    Args:
        stage: Stage.
        flags: A folder for a file that each held cell leaves; a file ``go`` lets all of them go on.
    """

    def __init__(self, stage: str, flags: str) -> None:
        self.stage, self.flags = stage, Path(flags)
        self.parent = os.getppid()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        if pl_module.name != self.stage or trainer.global_step > 1:
            return
        (self.flags / json.loads(os.environ["VPNS_GRID"])["cell"]).touch()
        while not (self.flags / "go").exists() and os.getppid() == self.parent:
            time.sleep(0.05)
