"""A callback that ends its own process, for ``vpns fit --plugins``."""

import os
import signal

import lightning.pytorch as pl


class SignalAt(pl.Callback):
    """Send this process a signal at a batch of an epoch of a stage, while ``flag`` does not exist.

    Args:
        signum: The signal.
        stage: Stage.
        epoch: Epoch, from 0.
        batch: Batch, from 0.
        flag: A file that is made first, so that the resumed run is left alone.
    """

    def __init__(self, signum: int, stage: str, epoch: int, batch: int, flag: str) -> None:
        self.signum, self.flag = signum, flag
        self.place = (stage, epoch, batch)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        here = (pl_module.name, trainer.current_epoch, batch_idx)
        if here == self.place and trainer.is_global_zero and not os.path.exists(self.flag):
            open(self.flag, "w").close()
            os.kill(os.getpid(), self.signum)


KILL = int(signal.SIGKILL)
