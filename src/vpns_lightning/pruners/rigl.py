"""RigL: a sparse topology that moves while it trains (https://arxiv.org/abs/1911.11134)."""

import math

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vpns_lightning.base.batches import Batch
from vpns_lightning.base.errors import UserError
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.pruners.base import Pruner, StageLike, require_prunable, thaw
from vpns_lightning.pruners.budgets import erdos_renyi_kernel
from vpns_lightning.pruners.intervals import interval_of
from vpns_lightning.sparsity import (
    MaskedLayer,
    keep_highest,
    masked_layers,
    prune_count,
    ranked_together,
)


class RigL(Pruner):
    """Sparse from the first step: now and then drop small weights and grow where gradients are.

    Layers start at Erdos-Renyi-kernel densities with their largest pretrained weights, and keep
    their densities. An update comes in place of a gradient step: of every layer the fraction
    ``fraction / 2 * (1 + cos(pi * t / end))`` of its kept weights with the smallest magnitude is
    dropped, and as many of the others with the largest ``|gradient|`` grow, from zero. A layer has
    room for no more than its removed weights, so one denser than ``1 / (1 + fraction)`` moves less;
    the authors' code drops the whole fraction there and grows much of it again. Weights and prompt
    are trained in the finding stage, so tuning may take 0 epochs.

    Evci et al., 2020, https://arxiv.org/abs/1911.11134.

    Args:
        every: Iterations between two updates; a tenth of those in which the topology may move where
            they are no more than that.
        fraction: Fraction of a layer's kept weights that the first update would move, in [0, 1].
        until: Fraction of the finding stage after which the topology stays, in (0, 1].

    Raises:
        UserError: A number is out of range.
    """

    trains_weights = True
    takes_levels = True

    def __init__(self, *, every: int = 100, fraction: float = 0.3, until: float = 0.75) -> None:
        super().__init__()
        if every < 1:
            raise UserError(f"the topology is updated every >= 1 iterations, got every={every}")
        if not 0 <= fraction <= 1:
            raise UserError(f"fraction of weights that move must lie in [0, 1], got {fraction}")
        if not 0 < until <= 1:
            raise UserError(f"until is a fraction of the finding stage in (0, 1], got {until}")
        self.every = every
        self.fraction = fraction
        self.until = until
        self._attached = False
        self._updated_at = -1

    @torch.no_grad()
    def attach(self, network: PromptedClassifier, sparsity: float) -> None:
        """Set the first masks and zero what they remove.

        Raises:
            UserError: No layer can be pruned.
        """
        require_prunable(network)
        if self._attached:
            return
        thaw(network)
        layers = dict(masked_layers(network.backbone))
        for names, level in ranked_together(layers, sparsity, levels=self.levels):
            group = [layers[name] for name in names]
            sizes = [layer.weight.numel() for layer in group]
            n_keep = sum(sizes) - prune_count(sum(sizes), level)
            counts = erdos_renyi_kernel([tuple(layer.weight.shape) for layer in group], n_keep)
            for layer, size, count in zip(group, sizes, counts, strict=True):
                keep_highest([layer.weight], size - count, [layer.mask], absolute=True)
                layer.weight.mul_(layer.mask)
        self._attached = True

    def moving(self, iteration: int, total: int) -> float:
        """Return the fraction of kept weights that an update at an iteration moves.

        Args:
            iteration: Iterations done.
            total: Iterations of the finding stage.
        """
        end = self.until * total
        if iteration >= end:
            return 0.0
        return self.fraction / 2 * (1 + math.cos(math.pi * iteration / end))

    def step(self, stage: StageLike, view: str, batch: Batch) -> None:
        """Take one optimiser step, or in its place update the topology."""
        iteration, total = stage.progress()
        every = interval_of(stage, self.every, self.until * total, "the topology would never move")
        due = iteration > 0 and iteration % every == 0 and iteration != self._updated_at
        fraction = self.moving(iteration, total)
        if not due or fraction == 0:
            super().step(stage, view, batch)
            return
        # once an iteration, however many views it has
        self._updated_at = iteration
        layers = [layer for _, layer in masked_layers(stage.network.backbone)]
        optimizer = stage.optimizers()
        for layer, gradient in zip(layers, _dense_gradients(stage, view, batch), strict=True):
            new = move(layer, gradient, fraction)
            _forget(optimizer, layer, new)

    def finish(self, network: PromptedClassifier, sparsity: float) -> None:
        """Keep masks and weights as they are; start them where no epoch did."""
        self.attach(network, sparsity)
        thaw(network)
        self._attached = False


@torch.no_grad()
def move(layer: MaskedLayer, gradient: Tensor, fraction: float) -> Tensor:
    """Drop a fraction of a layer's weights and grow as many; the density stays.

    Args:
        layer: With zeros wherever its mask removes.
        gradient: At the masked weight, dense, of the weight's shape.
        fraction: Of the kept weights.

    Returns:
        Bool tensor of the weight's shape: where weights are new. What was dropped and grew again
        keeps its value and is not new.
    """
    size, kept = layer.mask.numel(), int(layer.mask.sum())
    count = min(round(fraction * kept), size - kept)
    # removed weights rank below every kept one, which may be zero too
    magnitude = layer.weight.abs().float().masked_fill(~layer.mask, -1)
    staying = torch.empty_like(layer.mask)
    keep_highest([magnitude], size - kept + count, [staying])
    wish = gradient.abs().float().nan_to_num().masked_fill(staying, -1)
    growing = torch.empty_like(layer.mask)
    keep_highest([wish], size - count, [growing])
    new = growing & ~layer.mask
    layer.mask.copy_(staying | growing)
    layer.weight.mul_(layer.mask)
    return new


def _dense_gradients(stage: StageLike, view: str, batch: Batch) -> list[Tensor]:
    """Return the gradient at every masked weight, removed ones included.

    Removed weights are zero, so the loss is the same with masks of ones, which let gradients pass.
    """
    layers = [layer for _, layer in masked_layers(stage.network.backbone)]
    masks = [layer.mask.clone() for layer in layers]
    for layer in layers:
        layer.mask.fill_(True)
    stage.optimizers().zero_grad()
    stage.manual_backward(stage.loss(view, batch))
    gradients = []
    for layer, mask in zip(layers, masks, strict=True):
        layer.mask.copy_(mask)
        assert layer.weight.grad is not None
        gradients.append(layer.weight.grad)
    return gradients


def _forget(optimizer: Optimizer, layer: MaskedLayer, new: Tensor) -> None:
    """Zero the optimiser's memory of weights that are gone or new."""
    assert isinstance(layer.weight, nn.Parameter)
    for value in optimizer.state.get(layer.weight, {}).values():
        if isinstance(value, Tensor) and value.shape == new.shape:
            value.mul_(layer.mask & ~new)
