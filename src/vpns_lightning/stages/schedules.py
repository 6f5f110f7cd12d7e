"""Learning-rate schedules that a config can say in a line; stepped once an epoch."""

import math
from collections.abc import Callable

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, SequentialLR

from vpns_lightning.base.errors import UserError


class WarmupCosine(LRScheduler):
    """A linear rise, then a cosine to zero at the end of the stage.

    With learning rate ``l``, ``w`` epochs of rise and ``E`` epochs in all, epoch ``e`` has
    ``l * (s + (1 - s) * e / w)`` for ``e < w``, and ``l * (1 + cos(pi * (e - w) / (E - w))) / 2``
    from there on, where ``s`` is the start factor.

    Args:
        optimizer: The optimiser.
        warmup_epochs: Epochs of the rise, w.
        start_factor: Of the learning rate in the first epoch, s.
        epochs: Epochs in all, E; those that the stage's schedule spans where None.

    Raises:
        UserError: A number is out of range, or the rise leaves no epoch for the cosine.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_epochs: int = 5,
        *,
        start_factor: float = 0.01,
        epochs: int | None = None,
    ) -> None:
        if warmup_epochs < 0:
            raise UserError(f"WarmupCosine: warmup_epochs must be >= 0, got {warmup_epochs}")
        if not 0 < start_factor <= 1:
            raise UserError(f"WarmupCosine: start_factor must be in (0, 1], got {start_factor}")
        self.warmup_epochs = warmup_epochs
        self.start_factor = start_factor
        self.epochs: int | None = None
        if epochs is not None:
            self.span(epochs)
        super().__init__(optimizer)

    def span(self, epochs: int) -> None:
        """Say how many epochs there are, where the config does not.

        Raises:
            UserError: The rise takes all of them.
        """
        if self.epochs is not None:
            return
        if self.warmup_epochs >= epochs:
            raise UserError(
                f"WarmupCosine rises for {self.warmup_epochs} epochs, and its schedule spans "
                f"{epochs}: choose fewer warmup_epochs"
            )
        self.epochs = epochs

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rate of each group in the epoch at hand."""
        return [rate * self._factor(self.last_epoch) for rate in self.base_lrs]

    def _factor(self, epoch: int) -> float:
        rise = self.warmup_epochs
        if epoch < rise:
            return self.start_factor + (1 - self.start_factor) * epoch / rise
        if epoch == rise:
            return 1.0
        if self.epochs is None:
            raise UserError("WarmupCosine inside another schedule must be told its epochs")
        return (1 + math.cos(math.pi * min((epoch - rise) / (self.epochs - rise), 1))) / 2


class InSequence(SequentialLR):
    """Schedules one after the other: torch's ``SequentialLR`` as a config can say it.

    Args:
        optimizer: The optimiser.
        schedulers: Build each of them from the optimiser.
        milestones: Epochs, from 0, at which the next one takes over; one fewer than schedules.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: list[Callable[[Optimizer], LRScheduler]],
        milestones: list[int],
    ) -> None:
        super().__init__(optimizer, [build(optimizer) for build in schedulers], milestones)
