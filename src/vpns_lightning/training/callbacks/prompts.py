"""Pictures of the prompt while it is learned, for figures."""

from pathlib import Path

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from vpns_lightning.base.errors import UserError
from vpns_lightning.runs.prompt_files import Moment, read_prompts, write_prompts
from vpns_lightning.stages import Stage

TIMES = 5  # that a stage keeps its prompt; the last of them with the hand-off


class KeepPrompts(pl.Callback):
    """Keep the prompt after about five epochs of every stage that learns it.

    Nothing is drawn at random, and a repeated epoch writes the same again: an interrupted run ends
    with the file of one that was not.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep it, where the epoch is one of the five; the hand-off keeps the last."""
        assert isinstance(pl_module, Stage)
        done = trainer.current_epoch + 1
        every = max(1, -(-pl_module.epochs // TIMES))
        if trainer.is_global_zero and done % every == 0 and done < pl_module.epochs:
            keep_prompt(self.path, pl_module, done)


def keep_prompt(path: Path, stage: Stage, epochs: int) -> None:
    """Add the prompt to the file, unless this stage does not learn it.

    Args:
        path: The file.
        stage: The stage.
        epochs: Of the stage that are done.
    """
    prompt = stage.network.prompt
    if prompt is None or "prompted" not in stage.views or not epochs:
        return
    try:
        kept = read_prompts(path)
    except UserError as error:  # hours of training are worth more than the pictures
        rank_zero_warn(f"{error}; the file begins anew")
        kept = {}
    # what a half cannot hold is no picture either
    picture = prompt.picture().float().clamp(-65504, 65504).cpu().numpy().astype(np.float16)
    write_prompts(path, {**kept, Moment(stage.name, epochs): picture})
