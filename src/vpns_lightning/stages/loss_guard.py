"""Stopping on a bad loss before it reaches the weights, without waiting for the device."""

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class LossGuard(nn.Module):
    """Remembers the first loss that was NaN or infinite and makes later optimiser steps no-ops.

    Reading every loss would make the host wait for the device at every step. So the finding stays
    on the device, where fused optimisers read it and skip, and is read at log points only. Other
    optimisers cannot do that; with them ``immediate`` is True and each loss has to be read.

    Attributes:
        bad_step: int64, 0-d: the gradient step of the first bad loss, -1 if there was none.
        found_inf: float32, 0-d: 1 once there was one; the name fused optimisers know.
        immediate: The finding must be read before each optimiser step.
    """

    bad_step: Tensor
    found_inf: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bad_step", torch.full((), -1, dtype=torch.int64), persistent=False)
        self.register_buffer("found_inf", torch.zeros(()), persistent=False)
        self.immediate = True

    def protect(self, optimizer: Optimizer, *, scaled: bool) -> None:
        """Let a fused optimiser skip its step once a loss was bad.

        Args:
            optimizer: The optimiser, its parameters on their final device.
            scaled: Gradients are scaled (float16). A fused step would then hide unscaled gradients
                from the hooks that need them, so the optimiser is made to take unfused steps.
        """
        fused = bool(getattr(optimizer, "_step_supports_amp_scaling", False))
        if fused and scaled:
            optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]  # torch's own flag
            for group in optimizer.param_groups:
                group["fused"] = False
        self.immediate = scaled or not fused
        if not self.immediate:
            optimizer.found_inf = self.found_inf  # type: ignore[attr-defined]  # read by torch's fused kernels

    def look(self, bad: Tensor, step: int) -> None:
        """Note whether the loss of gradient step ``step`` is bad (0-d bool, on the device)."""
        first = torch.where(bad & (self.bad_step < 0), step, self.bad_step)
        self.bad_step.copy_(first)
        self.found_inf.copy_(first >= 0)

    def first_bad_step(self) -> int | None:
        """Return the step of the first bad loss, if any; waits for the device."""
        step = int(self.bad_step)
        return None if step < 0 else step
