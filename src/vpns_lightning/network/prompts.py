"""Kinds of visual prompts: where on the image the learned pixels lie."""

import torch
from torch import Tensor, nn

from vpns_lightning.base.errors import UserError
from vpns_lightning.network.prompt import (
    ClampGradient,
    Prompt,
    RegionPrompt,
    Squash,
    pad_to_canvas,
)


class PadPrompt(RegionPrompt):
    """Four border strips (the paper's default): ``4 p (S - p)`` positions.

    Args:
        canvas_size: Side S, px.
        pad_size: Strip width p, px; S/2 covers the whole image, 0 nothing.
        clamp: See :class:`InclusiveClamp`.

    Raises:
        UserError: ``pad_size`` is negative or more than half the canvas.
    """

    def __init__(
        self, canvas_size: int = 224, pad_size: int = 16, *, clamp: ClampGradient = "inclusive"
    ) -> None:
        if not 0 <= 2 * pad_size <= canvas_size:
            raise UserError(
                f"pad_size {pad_size} px does not fit a canvas of {canvas_size} px: it must lie "
                f"in [0, {canvas_size // 2}]"
            )
        region = torch.ones(canvas_size, canvas_size, dtype=torch.bool)
        inner = slice(pad_size, canvas_size - pad_size)
        region[inner, inner] = False
        super().__init__(region, clamp=clamp)
        self.pad_size = pad_size


def _check_square(size: int, canvas_size: int) -> None:
    if not 0 <= size <= canvas_size:
        raise UserError(
            f"prompt size {size} px does not fit a canvas of {canvas_size} px: it must lie in "
            f"[0, {canvas_size}]"
        )


class FixPrompt(RegionPrompt):
    """A square in the top-left corner: ``q * q`` positions.

    Args:
        canvas_size: Side S, px.
        size: Side q of the square, px; 115 has about as many positions as a pad of 16.
        squash: See :class:`RegionPrompt`.
        clamp: See :class:`InclusiveClamp`.

    Raises:
        UserError: The square is larger than the canvas.
    """

    def __init__(
        self,
        canvas_size: int = 224,
        size: int = 115,
        *,
        squash: Squash = "none",
        clamp: ClampGradient = "inclusive",
    ) -> None:
        _check_square(size, canvas_size)
        region = torch.zeros(canvas_size, canvas_size, dtype=torch.bool)
        region[:size, :size] = True
        super().__init__(region, squash=squash, clamp=clamp)
        self.size = size


class RandomPrompt(RegionPrompt):
    """A square that lies elsewhere in every training batch, in the middle in evaluation.

    The whole plane is stored; a batch sees and trains the ``q * q`` positions at its place, which
    is uniform on [0, S - q] in both directions.

    Args:
        canvas_size: Side S, px.
        size: Side q of the square, px.
        squash: See :class:`RegionPrompt`.
        clamp: See :class:`InclusiveClamp`.

    Raises:
        UserError: The square is larger than the canvas.
    """

    draws = True

    def __init__(
        self,
        canvas_size: int = 224,
        size: int = 115,
        *,
        squash: Squash = "none",
        clamp: ClampGradient = "inclusive",
    ) -> None:
        _check_square(size, canvas_size)
        plane = torch.ones(canvas_size, canvas_size, dtype=torch.bool)
        super().__init__(plane, squash=squash, clamp=clamp)
        self.size = size
        self.num_parameters = 3 * size * size

    def forward(self, images: Tensor) -> Tensor:
        """Return prompted images, the square at a place drawn from torch's seeded generator."""
        slack = self.canvas_size - self.size
        top, left = slack // 2, slack // 2
        if self.training:
            top, left = (int(v) for v in torch.randint(slack + 1, (2,)))
        window = torch.zeros_like(self.region)
        window[top : top + self.size, left : left + self.size] = True
        return self._clamp(pad_to_canvas(images, self.canvas_size) + self._added(window))


class ExpansivePrompt(RegionPrompt):
    """A learned border around a smaller image (ILM-VP, Chen et al., 2023).

    Everything outside the central ``image_size`` square is ``sigmoid(delta)``; images must be of
    just that size. ``S*S - i*i`` positions. https://arxiv.org/abs/2211.11635

    Args:
        canvas_size: Side S, px.
        image_size: Side i of the image inside, px.
        squash: ``"sigmoid"`` as in ILM-VP, or ``"none"`` to add raw values and clamp.

    Raises:
        UserError: The image does not leave a border.
    """

    def __init__(
        self, canvas_size: int = 224, image_size: int = 128, *, squash: Squash = "sigmoid"
    ) -> None:
        if not 0 < image_size < canvas_size:
            raise UserError(
                f"image_size {image_size} px leaves no border on a canvas of {canvas_size} px: "
                f"it must lie in [1, {canvas_size - 1}]"
            )
        region = 1 - pad_to_canvas(torch.ones(1, 1, image_size, image_size), canvas_size)[0, 0]
        super().__init__(region.bool(), squash=squash)
        self.image_size = image_size

    def check_input_size(self, input_size: int) -> None:
        """Refuse images that are not ``image_size`` px.

        Raises:
            UserError: ``input_size`` differs from ``image_size``.
        """
        if input_size != self.image_size:
            raise UserError(
                f"ExpansivePrompt(image_size={self.image_size}) needs images of that size, got "
                f"{input_size} px: set data.input_size to {self.image_size}"
            )


class LowRankPrompt(Prompt):
    """A low-rank plane over the whole image (LoR-VP, Jin et al., 2025): ``B_c A_c`` per channel.

    ``B`` starts at zero, ``A`` at normal noise; no clamp. ``2 * 3 * S * r`` values.
    https://arxiv.org/abs/2502.00896

    Args:
        canvas_size: Side S, px.
        rank: Inner dimension r.
        std: Standard deviation of ``A`` at the start.

    Raises:
        UserError: The rank is not in [1, S].
    """

    def __init__(self, canvas_size: int = 224, rank: int = 4, *, std: float = 0.01) -> None:
        super().__init__(canvas_size)
        if not 1 <= rank <= canvas_size:
            raise UserError(f"rank must lie in [1, {canvas_size}], got {rank}")
        self.rank = rank
        self.std = std
        self.left = nn.Parameter(torch.zeros(3, canvas_size, rank))
        self.right = nn.Parameter(torch.randn(3, rank, canvas_size) * std)
        self.num_parameters = 6 * canvas_size * rank

    def forward(self, images: Tensor) -> Tensor:
        """Return ``pad(images) + B A``, shape (N, 3, S, S)."""
        return pad_to_canvas(images, self.canvas_size) + self.left @ self.right

    def picture(self) -> Tensor:
        """Return ``B A``, (3, S, S)."""
        return (self.left @ self.right).detach()
