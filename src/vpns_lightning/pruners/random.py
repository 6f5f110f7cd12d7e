"""Random pruning: each layer gets a budget, chance does the rest (Liu et al., 2022).

https://arxiv.org/abs/2202.02643
"""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from vpns_lightning.base.errors import UserError, nearest
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.network.backbones import head_of
from vpns_lightning.pruners.budgets import apportion, filled_up
from vpns_lightning.pruners.saliency import Saliency
from vpns_lightning.sparsity import masked_layers, prune_count

Layout = Literal["erk", "er", "uniform", "erk_plus", "uniform_plus", "global"]
LEAST_HEAD = 0.2  # fraction of the classifier that uniform_plus keeps at least


class Random(Saliency):
    """Keep weights at random, as many in each layer as a layout says.

    Args:
        layout: What each layer keeps. ``erk``: in proportion to (out + in + kernel height + width)
            / weights of the layer, layers that would exceed 1 dense (Erdős-Rényi kernel). ``er``:
            the same without kernel sizes. ``uniform``: the same fraction of every layer.
            ``erk_plus``: erk with a dense classifier. ``uniform_plus``: uniform with a dense
            first layer and at least 20 % of the classifier. ``global``: no budget a layer.
        seed: Of the positions; the run's own where None.

    Raises:
        UserError: The layout is unknown.
    """

    def __init__(self, *, layout: Layout = "erk", seed: int | None = None) -> None:
        super().__init__()
        if layout not in get_args(Layout):
            known = ", ".join(get_args(Layout))
            raise UserError(
                f"layout {layout!r} is not one of {known}{nearest(layout, get_args(Layout))}"
            )
        self.layout: Layout = layout
        self.seed = seed

    def scores(self, network: PromptedClassifier) -> dict[str, Tensor]:
        """Return noise, uniform in [0, 1)."""
        generator = torch.Generator().manual_seed(self._seed())
        return {
            name: torch.rand(weight.shape, generator=generator).to(weight.device)
            for name, weight in network.prunable().items()
        }

    def masks(self, network: PromptedClassifier, sparsity: float) -> dict[str, Tensor]:
        """Return masks at random positions, exact to the weight in every layer.

        Raises:
            UserError: What the layout keeps dense is more than may be kept at all.
        """
        if self.layout == "global":
            return super().masks(network, sparsity)
        sizes = {name: weight.numel() for name, weight in network.prunable().items()}
        counts = {n: sizes[n] - prune_count(sizes[n], level) for n, level in self.levels.items()}
        free = [name for name in sizes if name not in counts]
        total = sum(sizes[name] for name in free)
        n_keep = total - prune_count(total, sparsity)
        fractions = self.fractions(network, n_keep) if free else {}
        budgets = apportion([fractions[name] * sizes[name] for name in free], n_keep)
        counts |= dict(zip(free, budgets.tolist(), strict=True))
        return anywhere(counts, network, self._seed())

    def _seed(self) -> int:
        return self.run_seed if self.seed is None else self.seed

    def fractions(self, network: PromptedClassifier, n_keep: int) -> dict[str, float]:
        """Return layer name to the fraction kept, of ``n_keep`` in all layers without a level.

        Raises:
            UserError: What the layout keeps dense is more than may be kept at all.
        """
        weights = network.prunable()
        shapes = {n: tuple(weight.shape) for n, weight in weights.items() if n not in self.levels}
        share = n_keep / sum(_size(shape) for shape in shapes.values())
        head, _ = head_of(network.backbone)
        fixed: dict[str, float] = {}
        if self.layout == "erk_plus":
            fixed = {head: 1.0}
        elif self.layout == "uniform_plus":
            fixed = {next(iter(weights)): 1.0, head: max(share, LEAST_HEAD)}
        if share == 1:
            fixed = {}
        fixed = {name: fraction for name, fraction in fixed.items() if name in shapes}
        left = n_keep - sum(fraction * _size(shapes[n]) for n, fraction in fixed.items())
        if left < 0:
            raise UserError(
                f"layout {self.layout!r} keeps {n_keep - left:.0f} weights of "
                f"{' and '.join(map(repr, fixed))}, but only {n_keep} may be kept: choose a lower "
                "sparsity, or the layout 'erk'"
            )
        free = {name: shape for name, shape in shapes.items() if name not in fixed}
        return fixed | filled_up({n: self._raw(s) for n, s in free.items()}, free, left)

    def _raw(self, shape: Sequence[int]) -> float:
        if self.layout.startswith("uniform"):
            return 1.0
        if self.layout == "er":
            return sum(shape[:2]) / _size(shape[:2])
        return sum(shape) / _size(shape)


def anywhere(
    counts: Mapping[str, int], network: PromptedClassifier, seed: int
) -> dict[str, Tensor]:
    """Return masks that keep ``counts`` weights of each layer at random positions."""
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for name, layer in masked_layers(network.backbone):
        flat = torch.zeros(layer.weight.numel(), dtype=torch.bool)
        flat[torch.randperm(len(flat), generator=generator)[: counts[name]]] = True
        masks[name] = flat.view(layer.weight.shape).to(layer.weight.device)
    return masks


def _size(shape: Sequence[int]) -> int:
    return torch.Size(shape).numel()
