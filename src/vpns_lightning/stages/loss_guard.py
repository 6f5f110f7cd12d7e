"""Stopping on a bad loss before it reaches the weights, without waiting for the device."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from vpns_lightning.stages.fusing import is_fused


class LossGuard(nn.Module):
    """Remembers the first loss that was NaN or infinite and makes later optimiser steps no-ops.

    Reading every loss would make the host wait for the device at every step. So the finding stays
    on the device, where fused optimisers read it and skip, and is read at log points only. Where
    float16's gradients are scaled, losses after a bad one are NaN, and the scaler skips the step.
    Other optimisers cannot skip; with them ``immediate`` is True and each loss has to be read.

    Attributes:
        bad_step: int64, 0-d: the gradient step of the first bad loss, -1 if there was none.
        found_inf: float32, 0-d: 1 once there was one; the name fused optimisers know.
    """

    bad_step: Tensor
    found_inf: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bad_step", torch.full((), -1, dtype=torch.int64), persistent=False)
        self.register_buffer("found_inf", torch.zeros(()), persistent=False)
        self._optimizers: list[Optimizer] = []
        self._scaled = False
        self._asked: _Question | None = None

    @property
    def immediate(self) -> bool:
        """Whether the finding must be read before each optimiser step."""
        # a checkpoint may bring other options of its optimisers, so they are looked at each time
        skipping = self._scaled or all(map(is_fused, self._optimizers))
        return not (self._optimizers and skipping)

    def protect(self, optimizers: Sequence[Optimizer], *, scaled: bool) -> None:
        """Let optimisers skip their steps once a loss was bad.

        Args:
            optimizers: All of the stage, their parameters on their final device.
            scaled: Their gradients are scaled (float16), so a scaler decides on their steps.
        """
        self._optimizers, self._scaled = list(optimizers), scaled
        for optimizer in () if scaled else filter(is_fused, optimizers):
            optimizer.found_inf = self.found_inf  # type: ignore[attr-defined]  # read by torch's fused kernels

    def look(self, loss: Tensor, step: int, *, everywhere: bool = False) -> None:
        """Note whether the loss (0-d, detached) of a gradient step is bad.

        Args:
            loss: On the device.
            step: Its number.
            everywhere: Bad on any process is bad on all. They are asked without waiting for the
                answer, which :meth:`settle` takes in.
        """
        self.settle()
        bad = (~torch.isfinite(loss)).float()
        work = None
        if everywhere:
            work = distributed.all_reduce(bad, distributed.ReduceOp.MAX, async_op=True)
        self._asked = _Question(bad, step, work)
        if not everywhere:
            self.settle()

    def settle(self) -> None:
        """Take in what was found of the last loss; before an optimiser steps on it."""
        if self._asked is None:
            return
        bad, step, work = self._asked
        self._asked = None
        if work is not None:
            work.wait()  # of NCCL, the device's queue waits and not the host
        first = torch.where((bad > 0) & (self.bad_step < 0), step, self.bad_step)
        self.bad_step.copy_(first)
        self.found_inf.copy_(first >= 0)

    def passed_on(self, loss: Tensor) -> Tensor:
        """Return the loss that is learned from: where a scaler decides, NaN after a bad one."""
        if not self._scaled:
            return loss
        return loss * torch.where(self.bad_step < 0, 1.0, math.nan)

    def first_bad_step(self) -> int | None:
        """Return the step of the first bad loss, if any; waits for the device."""
        self.settle()
        step = int(self.bad_step)
        return None if step < 0 else step


class _Question(NamedTuple):
    """Whether a loss is bad, put to all processes.

    Attributes:
        bad: float32, 0-d: above 0 if it is, once they have answered.
        step: The gradient step of the loss.
        work: What to wait for; None where there is one process.
    """

    bad: Tensor
    step: int
    work: "distributed.Work | None"
