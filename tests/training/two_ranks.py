"""A run of two processes that a cluster has started; used by ``test_several_processes.py``.

python -m torch.distributed.run --nproc_per_node 2 tests/training/two_ranks.py FOLDER
"""

import os
import sys
from pathlib import Path

import lightning.pytorch as pl
import torch

from toy_run import KillAt, Killed, Parts


class Stages(pl.Callback):
    """Writes down which stages this process trains."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_start(self, trainer: pl.Trainer, stage: pl.LightningModule) -> None:
        with self.file.open("a") as file:
            file.write(f"{stage.name}\n")  # type: ignore[operator]


def main(folder: Path) -> None:
    """Stop a run in its second stage, then go on with one process that sees an empty folder."""
    rank = int(os.environ["RANK"])
    torch.set_num_threads(1)
    two = {"devices": 2, "strategy": "ddp"}
    for name in ("run", "left"):
        KillAt.fired = False
        try:
            Parts(epochs=1).fit(folder / name, KillAt("find", 0, 0), **two)  # type: ignore[arg-type]
        except Killed:
            continue
        raise AssertionError("it was not stopped")
    if rank == 1:
        # as a network file system may show it to another machine
        real = Path.is_file
        Path.is_file = lambda path: folder not in path.parents and real(path)  # type: ignore
    Parts(epochs=1).fit(folder / "run", Stages(folder / f"{rank}.txt"), **two)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
