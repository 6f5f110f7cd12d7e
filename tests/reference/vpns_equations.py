"""VPNs as the paper's equations say it, slow and obvious (https://arxiv.org/abs/2312.01397)."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


class Step(torch.autograd.Function):
    """The mask of a magnitude: 1 above the threshold, with the identity's gradient."""

    @staticmethod
    def forward(ctx: Any, magnitude: Tensor, threshold: Tensor) -> Tensor:
        return (magnitude > threshold).to(magnitude.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class Clip(torch.autograd.Function):
    """Clip to [0, 1]; the gradient passes on the bounds too."""

    @staticmethod
    def forward(ctx: Any, pixels: Tensor) -> Tensor:
        ctx.save_for_backward(pixels)
        return pixels.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (pixels,) = ctx.saved_tensors
        return torch.where((pixels < 0) | (pixels > 1), torch.zeros(()), grads[0])


def masked_weight(weight: Tensor, scores: Tensor, threshold: Tensor) -> Tensor:
    """Return ``1[|s| > threshold] * weight`` with the straight-through gradient."""
    return Step.apply(scores.abs(), threshold) * weight


def prunable_names(net: nn.Module) -> list[str]:
    """Return the names of all convolution and linear layers."""
    return [n for n, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def first_scores(weight: Tensor) -> Tensor:
    """Return scaled initial scores in the release's order: bound times weight, over the largest."""
    fan_in = math.prod(weight.shape[1:])
    return math.sqrt(6 / fan_in) * weight / weight.abs().max()


def threshold_by_sorting(scores: Sequence[Tensor], n_prune: int) -> Tensor:
    """Return the n_prune-th smallest magnitude of all scores together; -inf for none."""
    magnitudes = torch.cat([s.detach().abs().reshape(-1) for s in scores]).sort().values
    return magnitudes[n_prune - 1] if n_prune > 0 else torch.tensor(-math.inf)


def border(canvas: int, pad: int) -> Tensor:
    """Return a plane (S, S) of ones on the four border strips, zeros in the middle."""
    plane = torch.zeros(canvas, canvas)
    for row in range(canvas):
        for column in range(canvas):
            if min(row, column, canvas - 1 - row, canvas - 1 - column) < pad:
                plane[row, column] = 1
    return plane


def zero_padded(images: Tensor, canvas: int) -> Tensor:
    """Return images in the middle of a black canvas, the odd pixel left and on top."""
    side = images.shape[-1]
    start = (canvas - side + 1) // 2
    whole = torch.zeros(*images.shape[:2], canvas, canvas)
    whole[:, :, start : start + side, start : start + side] = images
    return whole


def prompted(images: Tensor, delta: Tensor, canvas: int, pad: int) -> Tensor:
    """Return ``clip01(r(x) + delta)`` normalised (Eqs. 1-2)."""
    pixels = Clip.apply(zero_padded(images, canvas) + delta * border(canvas, pad))
    return (pixels - MEAN) / STD


def cosine(rate: float, epoch: int, epochs: int) -> float:
    """Return the learning rate of an epoch: cosine from ``rate`` to zero."""
    return rate * (1 + math.cos(math.pi * epoch / epochs)) / 2


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give all parameters of an optimiser one learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


class Equations:
    """Both stages of VPNs on one pretrained network.

    Args:
        net: The pretrained network; copied.
        rows: Source class of each target class; the head keeps these rows only.
        canvas: Side S, px.
        pad: Width of the prompt's strips, px.
        n_prune: Weights removed.
    """

    def __init__(
        self, net: nn.Module, rows: Sequence[int], *, canvas: int, pad: int, n_prune: int
    ) -> None:
        self.net = copy.deepcopy(net).train()
        with torch.no_grad():
            self.net.head.weight = nn.Parameter(self.net.head.weight[list(rows)])
            self.net.head.bias = nn.Parameter(self.net.head.bias[list(rows)])
        self.names = prunable_names(self.net)
        self.weights = {name: self.net.get_parameter(f"{name}.weight") for name in self.names}
        self.scores = {
            name: first_scores(weight.detach()).requires_grad_(True)
            for name, weight in self.weights.items()
        }
        self.delta = torch.zeros(3, canvas, canvas, requires_grad=True)
        self.canvas, self.pad, self.n_prune = canvas, pad, n_prune
        self.threshold = threshold_by_sorting(list(self.scores.values()), n_prune)

    def masks(self) -> dict[str, Tensor]:
        """Return the bool mask of every layer."""
        return {name: s.detach().abs() > self.threshold for name, s in self.scores.items()}

    def _loss(self, weights: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        named = {f"{name}.weight": weight for name, weight in weights.items()}
        shown = prompted(images, self.delta, self.canvas, self.pad)
        return functional.cross_entropy(functional_call(self.net, named, (shown,)), labels)

    def find(
        self, batches: Sequence[tuple[Tensor, Tensor]], *, epochs: int, rate: float, decay: float
    ) -> list[float]:
        """Learn scores and prompt with Adam, weights fixed (Eq. 5); return the losses."""
        optimizer = torch.optim.Adam(
            [*self.scores.values(), self.delta], lr=rate, weight_decay=decay
        )
        losses = []
        for epoch in range(epochs):
            set_rate(optimizer, cosine(rate, epoch, epochs))
            for images, labels in batches:
                weights = {
                    name: masked_weight(self.weights[name].detach(), s, self.threshold)
                    for name, s in self.scores.items()
                }
                loss = self._loss(weights, images, labels)
                optimizer.zero_grad()
                loss.backward(inputs=[*self.scores.values(), self.delta])
                optimizer.step()
                self.threshold = threshold_by_sorting(list(self.scores.values()), self.n_prune)
                losses.append(loss.item())
        return losses

    def tune(
        self, batches: Sequence[tuple[Tensor, Tensor]], *, epochs: int, rate: float, decay: float
    ) -> list[float]:
        """Tune weights and prompt with SGD under the final masks (Eq. 6); return the losses."""
        masks = self.masks()
        optimizer = torch.optim.SGD(
            [*self.net.parameters(), self.delta], lr=rate, momentum=0.9, weight_decay=decay
        )
        losses = []
        for epoch in range(epochs):
            set_rate(optimizer, cosine(rate, epoch, epochs))
            for images, labels in batches:
                weights = {name: masks[name] * weight for name, weight in self.weights.items()}
                loss = self._loss(weights, images, labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
        return losses
