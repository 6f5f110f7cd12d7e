"""What all visual prompts share: the canvas, the sum with the image, the clamp (Eqs. 1-2)."""

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from vpns_lightning.base.errors import UserError

ClampGradient = Literal["inclusive", "native"]
Squash = Literal["none", "sigmoid"]


class InclusiveClamp(torch.autograd.Function):
    """Clamp to [0, 1] whose gradient is 1 on the bounds too.

    Recent torch gives ``clamp`` zero gradient where the input equals a bound. A zero prompt on zero
    padding sits exactly there, so it would never learn.
    """

    @staticmethod
    def forward(ctx: Any, pixels: Tensor) -> Tensor:
        """Return ``pixels`` clamped to [0, 1]."""
        ctx.save_for_backward((pixels >= 0) & (pixels <= 1))
        return pixels.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Return the gradient where 0 <= pixels <= 1, zero elsewhere."""
        (inside,) = ctx.saved_tensors
        passed: Tensor = grads[0] * inside.to(grads[0].dtype)
        return passed


def pad_to_canvas(images: Tensor, canvas_size: int) -> Tensor:
    """Pad (N, C, i, i) with zeros to (N, C, S, S), the image in the middle.

    An odd difference puts the extra pixel left and on top.

    Raises:
        UserError: The images are larger than the canvas.
    """
    size = images.shape[-1]
    if size == canvas_size:
        return images
    if size > canvas_size:
        raise UserError(f"images of {size} px do not fit a canvas of {canvas_size} px")
    before, after = (canvas_size - size + 1) // 2, (canvas_size - size) // 2
    return functional.pad(images, (before, after, before, after))


class Prompt(nn.Module, ABC):
    """A learned addition to the image; a subclass says where it lies.

    Attributes:
        canvas_size: Side S of what the network sees, px.
        num_parameters: Values that are learned (active ones, over three channels).
        draws: Draws from torch's generator while it trains, which a compiled graph would do from
            its own; such a prompt is not compiled.
    """

    num_parameters: int
    draws: bool = False

    def __init__(self, canvas_size: int) -> None:
        super().__init__()
        if canvas_size < 1:
            raise UserError(f"canvas_size must be at least 1 px, got {canvas_size}")
        self.canvas_size = canvas_size

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Return prompted images (N, 3, S, S) in [0, 1] from images (N, 3, i, i), i <= S."""

    @abstractmethod
    def picture(self) -> Tensor:
        """Return what is added to an image, (3, S, S), detached."""

    def norm(self) -> Tensor:
        """Return the L2 norm of what is added, 0-d."""
        length: Tensor = self.picture().norm()
        return length

    def check_input_size(self, input_size: int) -> None:
        """Refuse images that do not fit the canvas.

        Raises:
            UserError: ``input_size`` exceeds ``canvas_size``.
        """
        if input_size > self.canvas_size:
            raise UserError(
                f"images of {input_size} px do not fit the prompt's canvas of {self.canvas_size} "
                f"px: set data.input_size to at most {self.canvas_size}, or enlarge canvas_size"
            )


class RegionPrompt(Prompt):
    """A full plane of pixels of which only a region is used.

    Args:
        region: Bool tensor of shape (S, S); True where the prompt acts.
        squash: ``"sigmoid"`` adds ``sigmoid(delta)``, so zero means half grey (released code).
        clamp: ``"inclusive"`` or ``"native"``, (torch's own), see :class:`InclusiveClamp`.
    """

    region: Tensor

    def __init__(
        self, region: Tensor, *, squash: Squash = "none", clamp: ClampGradient = "inclusive"
    ) -> None:
        super().__init__(region.shape[-1])
        self.register_buffer("region", region)
        self.delta = nn.Parameter(torch.zeros(3, *region.shape))
        self.squash = squash
        self.clamp = clamp
        self.num_parameters = 3 * int(region.sum())

    def forward(self, images: Tensor) -> Tensor:
        """Return ``clamp01(pad(images) + delta * region)`` (Eq. 2), shape (N, 3, S, S)."""
        return self._clamp(pad_to_canvas(images, self.canvas_size) + self._added(self.region))

    def picture(self) -> Tensor:
        """Return ``delta * region``, (3, S, S)."""
        return self._added(self.region).detach()

    def _added(self, region: Tensor) -> Tensor:
        delta = self.delta.sigmoid() if self.squash == "sigmoid" else self.delta
        return delta * region

    def _clamp(self, pixels: Tensor) -> Tensor:
        if self.clamp == "native":
            return pixels.clamp(0, 1)
        clamped: Tensor = InclusiveClamp.apply(pixels)
        return clamped
