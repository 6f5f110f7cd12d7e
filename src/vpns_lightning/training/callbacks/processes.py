"""How many processes train: kept with the checkpoint, since a step takes images from each."""

from typing import Any

import lightning.pytorch as pl

from vpns_lightning.base.errors import UserError
from vpns_lightning.base.processes import say

KEY = "processes"  # in a checkpoint


def check_processes(before: int, now: int, *, allowed: bool) -> None:
    """Refuse to go on with another number of processes, or say what that means.

    Raises:
        UserError: The number differs and that was not allowed.
    """
    if before == now:
        return
    change = (
        f"the run trained with {before} process{'es' * (before > 1)} until now and would go on "
        f"with {now}: a step then takes {now / before:g} times as many images"
    )
    if not allowed:
        raise UserError(
            f"{change}. Start it as before (trainer.devices, trainer.num_nodes), or allow that "
            "with --other_processes=true"
        )
    say(f"{change}, as allowed")


class CountProcesses(pl.Callback):
    """Keep in checkpoints how many processes trained; go on with as many, unless allowed.

    Args:
        allowed: Another number is allowed.

    Attributes:
        before: The numbers of earlier parts of the stage, in order, where they differ from now.
    """

    def __init__(self, allowed: bool) -> None:
        self.allowed = allowed
        self.before: tuple[int, ...] = ()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write the numbers."""
        checkpoint[KEY] = [*self.before, trainer.world_size]

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Compare the last number; a checkpoint of version 0.1.0 has none."""
        *before, last = checkpoint.get(KEY, [trainer.world_size])
        check_processes(last, trainer.world_size, allowed=self.allowed)
        self.before = (*before, last) if last != trainer.world_size else tuple(before)
