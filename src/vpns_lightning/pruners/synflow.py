"""SynFlow: iterative conservation of synaptic flow (Tanaka et al., 2020).

https://arxiv.org/abs/2006.05467
"""

from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vpns_lightning.base.errors import UserError
from vpns_lightning.base.tensors import all_finite
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.pruners.saliency import Saliency
from vpns_lightning.sparsity import (
    Scope,
    TieRule,
    check_sparsity,
    keep_highest,
    masked_layers,
    prune_count,
    ranked_together,
)

DTYPES = {"float64": torch.float64, "float32": torch.float32}


class SynFlow(Saliency):
    """Keep the weights that carry most of the flow from an image of ones to the logits.

    All weights are replaced by their magnitudes; with ``R`` the sum of the logits the score is
    ``|weight * dR/dweight|``. Weights are removed in many small rounds and scored anew in each, so
    that no layer loses all of its weights. No data; done on a copy, the network stays as it is.

    Args:
        rounds: After round t of n the fraction kept is (1 - sparsity)^(t/n).
        bn: ``"abs_all"`` takes magnitudes in batch normalisation too, of its running means also,
            as the authors' code does; ``"linear"`` sets running means and biases to zero, so that
            the scores of every layer of a sequential network have the same sum.
        dtype: ``"float64"``, because sums of ResNet-50 exceed float32; ``"float32"`` for devices
            that have nothing else.
        input_size: Side of the image of ones, px. Where None that of the images the network sees:
            the prompt's canvas, or the data's own size without a prompt.
        scope: Rank over all layers or within each.
        tie_rule: See :class:`Saliency`.

    Raises:
        UserError: An option is out of range or unknown.
    """

    def __init__(
        self,
        *,
        rounds: int = 100,
        bn: Literal["abs_all", "linear"] = "abs_all",
        dtype: Literal["float64", "float32"] = "float64",
        input_size: int | None = None,
        scope: Scope = "global",
        tie_rule: TieRule = "exact",
    ) -> None:
        super().__init__(scope=scope, tie_rule=tie_rule)
        for name, number in (("rounds", rounds), ("input_size", input_size)):
            if number is not None and number < 1:
                raise UserError(f"{name} must be at least 1, got {number}")
        if bn not in ("abs_all", "linear"):
            raise UserError(f"bn must be 'abs_all' or 'linear', got {bn!r}")
        if dtype not in DTYPES:
            raise UserError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
        self.rounds = rounds
        self.bn = bn
        self.dtype = dtype
        self.input_size = input_size

    def scores(self, network: PromptedClassifier) -> dict[str, Tensor]:
        """Return the scores of the dense network.

        Raises:
            UserError: A score is NaN or infinite, or no size of images is known.
        """
        return self._flow(self._positive(network), network)

    def masks(self, network: PromptedClassifier, sparsity: float) -> dict[str, Tensor]:
        """Return the masks after all rounds.

        Raises:
            UserError: A score is NaN or infinite, or no size of images is known.
        """
        check_sparsity(sparsity)
        copy = self._positive(network)
        masks = {name: layer.mask for name, layer in masked_layers(copy)}
        for number in range(1, self.rounds + 1):
            scores = self._flow(copy, network)
            for names, level in ranked_together(
                masks, sparsity, scope=self.scope, levels=self.levels
            ):
                last = number == self.rounds
                removed = level if last else 1 - (1 - level) ** (number / self.rounds)
                self._remove({n: masks[n] for n in names}, scores, removed)
        self.finish_passes = self.rounds
        return masks

    def _remove(self, masks: dict[str, Tensor], scores: dict[str, Tensor], removed: float) -> None:
        """Take the lowest scores out of ``masks``, until a fraction of their weights is removed."""
        # only what is left is ranked: what was removed flows no more, and cannot return
        alive = [scores[name][mask] for name, mask in masks.items()]
        total = sum(mask.numel() for mask in masks.values())
        n_keep = total - prune_count(total, removed)
        n_prune = sum(len(values) for values in alive) - n_keep
        found = [torch.empty_like(values, dtype=torch.bool) for values in alive]
        keep_highest(alive, n_prune, found, tie_rule=self.tie_rule)
        for mask, kept in zip(masks.values(), found, strict=True):
            mask.masked_scatter_(mask.clone(), kept)

    @torch.no_grad()
    def _positive(self, network: PromptedClassifier) -> nn.Module:
        """Return a dense copy of the backbone whose parameters and statistics are magnitudes."""
        copy = deepcopy(network.backbone).to(DTYPES[self.dtype]).eval().requires_grad_(False)
        for tensor in [*copy.parameters(), *copy.buffers()]:
            if tensor.is_floating_point():
                tensor.abs_()
        for module in copy.modules():
            if self.bn == "linear" and isinstance(module, _BatchNorm):
                for shift in (module.running_mean, module.bias):
                    if shift is not None:
                        shift.zero_()
        for _, layer in masked_layers(copy):
            layer.scores = None
            layer.mask.fill_(True)
            layer.weight.requires_grad_(True)
        return copy

    def _flow(self, copy: nn.Module, network: PromptedClassifier) -> dict[str, Tensor]:
        layers = dict(masked_layers(copy))
        weights = [layer.weight for layer in layers.values()]
        size = self.input_size or self.seen_size(network)
        if size is None:
            raise UserError(
                "SynFlow's flow depends on the size of the images, which only a stage knows: set "
                "find.pruner.input_size (px)"
            )
        with torch.enable_grad(), torch.autocast(network.mean.device.type, enabled=False):
            image = weights[0].new_ones(1, 3, size, size)
            total = network.mapping(copy.forward(image)).sum()
            grads = torch.autograd.grad(total, weights)
        scores = {
            name: grad.mul_(weight.detach())
            for name, grad, weight in zip(layers, grads, weights, strict=True)
        }
        for name, score in scores.items():
            if not all_finite(score):
                raise UserError(_overflow(name, self.dtype))
        return scores


def _overflow(layer: str, dtype: str) -> str:
    if dtype == "float64":
        advice = "check the weights; where they are sound, use bn: linear or a shallower network"
    else:
        advice = "set dtype: float64, which is the default"
    return f"SynFlow's scores of layer {layer!r} are NaN or infinite in {dtype}: {advice}"
