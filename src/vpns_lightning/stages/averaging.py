"""Averages of the weights along training, which a stage hands on in place of the last ones."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from vpns_lightning.base.errors import UserError
from vpns_lightning.network import PromptedClassifier

STATISTICS = ("running_mean", "running_var")


class WeightAverage(nn.Module):
    """An average of all parameters and of batch normalisation's statistics.

    The prompt is averaged with the weights. Masks stay as they are, and a pruned weight, zero at
    every step, is zero on average: sparsity is exact. The values are in the stage's checkpoints.

    Args:
        update: Takes one more state into the averages, in place, given the averages, the state, and
            how many states are in them, at least 1.

    Attributes:
        taken: How many states of the network are in the average.
    """

    def __init__(self, update: Callable[[list[Tensor], list[Tensor], int], None]) -> None:
        super().__init__()
        self.update = update
        self.taken = 0

    @abstractmethod
    def due(self, epoch: int, *, last: bool) -> bool:
        """Return whether the state after an iteration counts.

        Args:
            epoch: The epoch at hand, from 0.
            last: The iteration is its last.
        """

    def check(self, stage: str, epochs: int) -> None:
        """Refuse what would leave nothing to average in a stage of so many epochs."""

    def begin(self, network: PromptedClassifier) -> None:
        """Make room for the averages of a network; again, change nothing."""
        if any(True for _ in self.buffers()):
            return
        for place, value in enumerate(averaged(network)):
            self.register_buffer(f"average{place}", value.detach().clone())

    @torch.no_grad()
    def take(self, network: PromptedClassifier) -> None:
        """Take in the present state of a network."""
        values, averages = averaged(network), list(self.buffers())
        if self.taken:
            self.update(averages, values, self.taken)
        else:
            _copy(averages, values)
        self.taken += 1

    @torch.no_grad()
    def swap(self, network: PromptedClassifier) -> None:
        """Exchange the averages and a network's own values, if there are averages yet."""
        if not self.taken:
            return
        values, averages = averaged(network), list(self.buffers())
        own = [value.clone() for value in values]
        _copy(values, averages)
        _copy(averages, own)

    @torch.no_grad()
    def adopt(self, network: PromptedClassifier) -> None:
        """Give a network the averages for good, if there are any; again, change nothing."""
        if self.taken:
            _copy(averaged(network), list(self.buffers()))
            self.taken = 0

    def get_extra_state(self) -> int:
        """Return how many states are in the average, for a checkpoint."""
        return self.taken

    def set_extra_state(self, state: Any) -> None:
        """Go on from a checkpoint."""
        self.taken = int(state)


class EMA(WeightAverage):
    """An exponential moving average, updated after every iteration.

    ``average <- decay * average + (1 - decay) * weights``, from the weights after the first
    iteration on. It looks back about ``1 / (1 - decay)`` iterations: choose that well below the
    iterations of the stage.

    Args:
        decay: In (0, 1).

    Raises:
        UserError: It is not.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 < decay < 1:
            raise UserError(f"EMA: decay must lie between 0 and 1, got {decay}")
        super().__init__(get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]  # torch's
        self.decay = decay

    def due(self, epoch: int, *, last: bool) -> bool:
        """Return True: every iteration counts."""
        return True


class SWA(WeightAverage):
    """The mean of the weights at the ends of epochs (Izmailov et al., 2018).

    https://arxiv.org/abs/1803.05407. Choose a schedule that still moves by then: with the default
    cosine the last weights hardly differ.

    Args:
        from_epoch: The first epoch, from 0, whose end counts.

    Raises:
        UserError: It is negative.
    """

    def __init__(self, from_epoch: int = 0) -> None:
        if from_epoch < 0:
            raise UserError(f"SWA: from_epoch must be >= 0, got {from_epoch}")
        super().__init__(get_swa_multi_avg_fn())  # type: ignore[no-untyped-call]  # torch's
        self.from_epoch = from_epoch

    def check(self, stage: str, epochs: int) -> None:
        """Refuse a first epoch that never comes.

        Raises:
            UserError: The stage is over by then.
        """
        if self.from_epoch >= epochs:
            raise UserError(
                f"{stage}.average: SWA starts from epoch {self.from_epoch}, and the stage has "
                f"epochs 0 to {epochs - 1}: set from_epoch below {epochs}"
            )

    def due(self, epoch: int, *, last: bool) -> bool:
        """Return whether an epoch that counts has ended."""
        return last and epoch >= self.from_epoch


def averaged(network: PromptedClassifier) -> list[Tensor]:
    """Return a network's parameters and running statistics, always in the same order."""
    statistics = [b for name, b in network.named_buffers() if name.endswith(STATISTICS)]
    return [*network.parameters(), *statistics]


def _copy(targets: list[Tensor], sources: list[Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)
