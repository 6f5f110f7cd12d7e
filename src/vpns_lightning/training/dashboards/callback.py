"""Pictures and densities of a stage: at a few epoch ends, and when it is over."""

from typing import Any

import lightning.pytorch as pl

from vpns_lightning.data import ImageData
from vpns_lightning.stages import Stage
from vpns_lightning.training.dashboards.kinds import Dashboard
from vpns_lightning.training.dashboards.pictures import (
    densities,
    example_pictures,
    prompt_picture,
)

TIMES = 10  # that a stage shows its prompt, the end included


class ShowStage(pl.Callback):
    """Show prompt and densities at about ten epoch ends, and examples once the stage is over.

    Nothing is done inside an epoch, nothing on other processes than the first, and nothing that
    draws a random number.

    Args:
        dashboards: Where to.
        data: The data; its test images are shown.
    """

    def __init__(self, dashboards: list[Dashboard[Any]], data: ImageData) -> None:
        self.dashboards = dashboards
        self.data = data

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the prompt, and while masks are sought the density of layers."""
        assert isinstance(pl_module, Stage)
        done = trainer.current_epoch + 1
        every = max(1, -(-pl_module.epochs // TIMES))
        # the last epoch is shown by what follows it
        if done % every == 0 and done < pl_module.epochs:
            self._show(trainer, pl_module, layers=pl_module.name == "find")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show what the stage hands on."""
        assert isinstance(pl_module, Stage)
        self._show(trainer, pl_module, layers=True, examples=True)

    def _show(
        self, trainer: pl.Trainer, stage: Stage, *, layers: bool, examples: bool = False
    ) -> None:
        network, step = stage.network, trainer.global_step
        for dashboard in self.dashboards if trainer.is_global_zero else ():
            with dashboard.harmless("show pictures"):
                prompt = prompt_picture(network)
                if prompt is not None:
                    dashboard.pictures(f"{stage.name}/prompt", [prompt], step)
                if layers:
                    dashboard.densities(f"{stage.name}/density", densities(network), step)
                if examples:
                    shown = example_pictures(network, self.data, precision=trainer.precision)
                    dashboard.pictures(f"{stage.name}/examples", shown, step)
