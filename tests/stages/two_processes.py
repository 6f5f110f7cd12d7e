"""What steps ask of the other process, in one of two; started by ``test_bad_losses.py``.

python -m torch.distributed.run --nproc_per_node 2 tests/stages/two_processes.py FOLDER
"""

import json
import math
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, distributed

from stages.toy_training import ToyData, fit, new_network, views_of
from vpns_lightning.base.errors import UserError
from vpns_lightning.pruners import Hydra
from vpns_lightning.sparsity.masks import tensors_hash
from vpns_lightning.stages import MaskFinding

STEPS, BAD_STEP = 4, 2


class Heard(pl.Callback):
    """Counts what the project asks of the other process while a batch is trained on."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.listening = False
        for name in ("barrier", "all_reduce", "broadcast", "all_gather"):
            setattr(distributed, name, self._heard(name, getattr(distributed, name)))

    def _heard(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.counts[name] += self.listening
            self.counts[f"{name}, awaited"] += self.listening and not kwargs.get("async_op")
            return real(*args, **kwargs)

        return call

    def on_train_batch_start(self, *args: object) -> None:
        self.listening = True

    def on_train_batch_end(self, *args: object) -> None:
        self.listening = False


def new_stage() -> MaskFinding:
    return MaskFinding(new_network(), Hydra(), sparsity=0.5, epochs=1)


def state(stage: MaskFinding) -> str:
    return tensors_hash((n, p) for n, p in stage.network.named_parameters())


def train(stage: MaskFinding, views: dict[str, list[tuple[Tensor, Tensor]]], *more: Any) -> None:
    options = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": False}
    fit(stage, ToyData(**views), callbacks=list(more), log_every_n_steps=1000, **options)


def main(folder: Path) -> None:
    """Write what was asked for, and how a loss that is bad on one process alone ends."""
    rank = int(os.environ["RANK"])
    torch.set_num_threads(1)
    heard = Heard()
    train(new_stage(), views_of(STEPS), heard)
    before = new_stage()
    train(before, {"prompted": views_of(STEPS)["prompted"][:BAD_STEP]})
    views, bad = views_of(STEPS), new_stage()
    if rank == 1:
        views["prompted"][BAD_STEP][0][0] = math.nan
    try:
        train(bad, views)
        message = ""
    except UserError as error:
        message = str(error)
    found = {"heard": heard.counts, "message": message, "unharmed": state(before) == state(bad)}
    (folder / f"{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
