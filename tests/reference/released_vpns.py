"""VPNs as its authors' release (https://github.com/UNITES-Lab/VPNs) trains it, restated.

Every iteration takes two updates: one on a prompted batch, one on a plain batch that is neither
prompted nor padded. Both update the scores (finding) or the weights (tuning); the prompt has an
optimiser of its own, which a plain update leaves alone. The whole pretrained head stays.
"""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

MEAN = torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)

Batch = tuple[Tensor, Tensor]


class KeepAbove(torch.autograd.Function):
    """Magnitudes to a mask; whatever is not strictly above the threshold is removed."""

    @staticmethod
    def forward(ctx: object, magnitude: Tensor, threshold: float) -> Tensor:
        zeros, ones = torch.zeros_like(magnitude), torch.ones_like(magnitude)
        return torch.where(magnitude <= threshold, zeros, ones)

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class UnitClamp(torch.autograd.Function):
    """The clamp of the torch releases of that time: gradient 1 on the bounds too."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, pixels: Tensor) -> Tensor:
        ctx.save_for_backward(pixels)
        return pixels.clamp(0, 1)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> Tensor:
        (pixels,) = ctx.saved_tensors
        grad = grads[0].clone()
        grad[(pixels < 0) | (pixels > 1)] = 0
        return grad


class Release:
    """A network with scores, one threshold, a pad prompt and a label map.

    Args:
        net: The pretrained network; copied.
        rows: Source class of each target class.
        canvas: Side S, px.
        pad: Width of the prompt's strips, px.
        density: Fraction of weights kept.
    """

    def __init__(
        self, net: nn.Module, rows: Sequence[int], *, canvas: int, pad: int, density: float
    ) -> None:
        self.net = copy.deepcopy(net).train()
        self.rows = torch.tensor(list(rows))
        self.canvas, self.density = canvas, density
        self.program = torch.zeros(3, canvas, canvas, requires_grad=True)
        self.frame = torch.ones(3, canvas, canvas)
        self.frame[:, pad : canvas - pad, pad : canvas - pad] = 0
        self.scores: dict[str, Tensor] = {}
        for name, module in self.net.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                weight = module.weight.detach()
                scale = math.sqrt(6 / nn.init._calculate_correct_fan(weight, "fan_in"))
                score = scale * weight / weight.abs().max()
                self.scores[name] = score.requires_grad_(True)
        self.threshold = -1.0
        self.set_threshold()

    def set_threshold(self) -> None:
        """Remove the k smallest magnitudes of all layers together, k = int((1 - density) N)."""
        flat = torch.cat([score.detach().abs().flatten() for score in self.scores.values()])
        k = int((1 - self.density) * flat.numel())
        if k >= 1:
            self.threshold = torch.kthvalue(flat, k).values.item()

    def masks(self) -> dict[str, Tensor]:
        """Return the mask of every layer, bool."""
        return {n: s.detach().abs() > self.threshold for n, s in self.scores.items()}

    def _inputs(self, images: Tensor, prompted: bool) -> Tensor:
        if prompted:
            gap = self.canvas - images.shape[-1]
            sides = ((gap + 1) // 2, gap // 2)
            padded = functional.pad(images, (*sides, *sides))
            images = UnitClamp.apply(padded + self.program * self.frame)
        return (images - MEAN) / STD

    def _loss(self, batch: Batch, *, prompted: bool, finding: bool) -> Tensor:
        images, labels = batch
        weights = {}
        masks = {} if finding else self.masks()
        for name, score in self.scores.items():
            weight = self.net.get_parameter(f"{name}.weight")
            if finding:
                mask = KeepAbove.apply(score.abs(), self.threshold)
                weights[f"{name}.weight"] = mask * weight.detach()
            else:
                weights[f"{name}.weight"] = masks[name] * weight
        logits = functional_call(self.net, weights, (self._inputs(images, prompted),))
        return functional.cross_entropy(logits.index_select(1, self.rows), labels)

    def _train(
        self,
        own: torch.optim.Optimizer,
        prompt: torch.optim.Optimizer,
        batches: Sequence[tuple[Batch, Batch]],
        epochs: int,
        *,
        finding: bool,
    ) -> list[float]:
        optimizers = [own, prompt]
        schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(o, epochs) for o in optimizers]
        losses = []
        for _ in range(epochs):
            for pair in batches:
                losses += self.iterate(own, prompt, pair, finding=finding)
            for schedule in schedules:
                schedule.step()
        return losses

    def iterate(
        self,
        own: torch.optim.Optimizer,
        prompt: torch.optim.Optimizer,
        pair: tuple[Batch, Batch],
        *,
        finding: bool,
    ) -> list[float]:
        """Take one iteration, two updates; return their losses."""
        losses = []
        for batch, prompted in zip(pair, (True, False), strict=True):
            loss = self._loss(batch, prompted=prompted, finding=finding)
            for optimizer in (own, prompt):
                optimizer.zero_grad(set_to_none=True)
            loss.backward()
            own.step()
            if prompted:
                prompt.step()
            if finding:
                self.set_threshold()
            losses.append(loss.item())
        return losses

    def find(
        self, batches: Sequence[tuple[Batch, Batch]], *, epochs: int, rate: float, decay: float
    ) -> list[float]:
        """Train scores and prompt with an Adam each; return the losses in order."""
        options = {"lr": rate, "weight_decay": decay}
        own = torch.optim.Adam(list(self.scores.values()), **options)
        prompt = torch.optim.Adam([self.program], **options)
        return self._train(own, prompt, batches, epochs, finding=True)

    def tune(
        self, batches: Sequence[tuple[Batch, Batch]], *, epochs: int, rate: float, decay: float
    ) -> list[float]:
        """Train weights and prompt with an SGD each under the final masks; return the losses."""
        options = {"lr": rate, "momentum": 0.9, "weight_decay": decay}
        own = torch.optim.SGD(self.net.parameters(), **options)
        prompt = torch.optim.SGD([self.program], **options)
        return self._train(own, prompt, batches, epochs, finding=False)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Return mapped logits of plain images under the masks, as the release evaluates."""
        self.net.eval()
        weights = {
            f"{name}.weight": mask * self.net.get_parameter(f"{name}.weight")
            for name, mask in self.masks().items()
        }
        return functional_call(self.net, weights, (self._inputs(images, False),))[:, self.rows]
