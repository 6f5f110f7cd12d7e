"""Wanda: weights and activations (Sun et al., 2024, https://arxiv.org/abs/2306.11695)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from vpns_lightning.base.batches import Batch
from vpns_lightning.base.errors import UserError
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.pruners.base import StageLike, keep_everything
from vpns_lightning.pruners.budgets import apportion
from vpns_lightning.pruners.data_saliency import DataSaliency
from vpns_lightning.pruners.scoring import BNMode
from vpns_lightning.sparsity import (
    MaskedConv2d,
    MaskedLayer,
    check_scores,
    masked_layers,
    prune_count,
    ranked_together,
)

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class Wanda(DataSaliency):
    """Keep, in every output row, the weights of highest ``|weight| * norm of their input``.

    The norm is over all images and, in a convolution, all positions that a weight is applied at.
    Rows differ by at most one weight, so that the total is exact.

    Args:
        pattern: ``"2:4"`` keeps two of every four consecutive weights of a row, which sparse
            kernels of GPUs can run; sparsity must be 0.5, and layers whose rows are no multiple
            of four stay dense.
        sequential: Go block by block, each block seeing what the pruned ones before it give, as the
            authors' code for language models does; a pass over the images for each block. False
            measures all inputs in the dense network, as their code for image classifiers does.
            Blocks are residual blocks, encoder layers and whatever else a container holds; a layer
            outside is one by itself.
        samples_per_class: See :class:`DataSaliency`, as for the others.
        chunk: Images in one pass of a process.
        bn_mode: Statistics that batch normalisation uses.

    Raises:
        UserError: The pattern is unknown, or see :class:`DataSaliency`.
    """

    def __init__(
        self,
        *,
        pattern: Literal["2:4"] | None = None,
        sequential: bool = False,
        samples_per_class: int = 10,
        chunk: int = 64,
        bn_mode: BNMode = "eval",
    ) -> None:
        super().__init__(samples_per_class=samples_per_class, chunk=chunk, bn_mode=bn_mode)
        if pattern not in (None, "2:4"):
            raise UserError(f"pattern must be '2:4' or null, got {pattern!r}")
        self.pattern = pattern
        self.sequential = sequential
        self.sparsity = 0.0

    def attach(self, network: PromptedClassifier, sparsity: float) -> None:
        """Start with sums of zero.

        Raises:
            UserError: A 2:4 pattern is asked for at another sparsity than 0.5.
        """
        if self.pattern and sparsity != 0.5:
            raise UserError(
                f"pattern 2:4 removes half of the weights, but find.sparsity is {sparsity}: set it "
                "to 0.5, or leave the pattern out"
            )
        if self.pattern and self.levels:
            raise UserError(
                "pattern 2:4 removes half of every row, so find.sparsity_by_layer cannot hold: "
                "leave one of them out"
            )
        self.sparsity = sparsity
        super().attach(network, sparsity)

    @property
    def collects(self) -> bool:
        """Return whether images are needed more than once, or together."""
        return self.sequential or super().collects

    def score_held(self, stage: StageLike) -> None:
        """Measure the inputs of each block in turn, blocks before it pruned; then undo that."""
        if not self.sequential:
            super().score_held(stage)
            return
        weights = stage.network.prunable()
        sizes = [weight.numel() for weight in weights.values()]
        counts = self._counts(weights, self.sparsity)
        try:
            for names in blocks(stage.network.backbone):
                seen = torch.split(self.over_chunks(stage, self.saliency), sizes)
                for known, name, squares in zip(
                    torch.split(self.sums, sizes), weights, seen, strict=True
                ):
                    if name in names:
                        known.copy_(squares)
                scores = self.scores(stage.network)
                for name, layer in masked_layers(stage.network.backbone):
                    if name in names:
                        layer.mask.copy_(self._best(scores[name], counts[name]))
        finally:
            keep_everything(stage.network)

    def saliency(self, stage: StageLike, view: str, batch: Batch) -> dict[str, Tensor]:
        """Return the squares that each weight is multiplied with, summed over a batch."""
        squares = {n: torch.zeros_like(w) for n, w in stage.network.prunable().items()}
        with torch.no_grad(), _listening(stage.network, squares):
            stage.loss(view, batch)
        return squares

    def scores(self, network: PromptedClassifier) -> dict[str, Tensor]:
        """Return ``|weight| * norm``."""
        squares = super().scores(network)
        return {n: w.detach().abs() * squares[n].sqrt() for n, w in network.prunable().items()}

    def masks(self, network: PromptedClassifier, sparsity: float) -> dict[str, Tensor]:
        """Return masks of the highest scores of each row, or of each four."""
        scores = self.scores(network)
        check_scores(scores)
        counts = self._counts(network.prunable(), sparsity)
        return {name: self._best(score, counts[name]) for name, score in scores.items()}

    def _counts(self, weights: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
        """Return how many weights each row of each layer keeps."""
        counts: dict[str, Tensor] = {}
        for names, level in ranked_together(weights, sparsity, levels=self.levels):
            counts |= row_counts({name: weights[name] for name in names}, level)
        return counts

    def _best(self, score: Tensor, counts: Tensor) -> Tensor:
        rows = score.flatten(1)
        kept = four_by_four(rows) if self.pattern else best_of(rows, counts)
        return kept.view(score.shape)


def blocks(backbone: nn.Module) -> list[list[str]]:
    """Return the masked layers of each block, in the order of the backbone's modules.

    A block is what a container (``nn.Sequential``, ``nn.ModuleList``, ``nn.ModuleDict``) holds, or
    a layer outside any.
    """
    found: dict[str, list[str]] = {}
    for name, _ in masked_layers(backbone):
        parts = name.split(".")
        inside = False
        for depth in range(len(parts) + 1):
            place = ".".join(parts[:depth])
            if isinstance(backbone.get_submodule(place), CONTAINERS):
                inside = True
            elif inside:
                break
        found.setdefault(place, []).append(name)
    return list(found.values())


def row_counts(weights: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Return how many weights each row keeps: the same fraction, exact in total.

    Args:
        weights: Layer name to weight; a row is what makes one output.
        sparsity: Fraction removed, in [0, 1).
    """
    total = sum(weight.numel() for weight in weights.values())
    n_keep = total - prune_count(total, sparsity)
    lengths = [torch.full((len(w),), w[0].numel()) for w in weights.values()]
    counts = apportion(torch.cat(lengths).double() * (n_keep / total), n_keep)
    return dict(zip(weights, torch.split(counts, [len(w) for w in weights.values()]), strict=True))


def best_of(row: Tensor, counts: Tensor) -> Tensor:
    """Return a mask of the ``counts`` highest of each row (rows, weights), ties by index."""
    order = row.argsort(stable=True, dim=1, descending=True)
    places = torch.arange(row.shape[1], device=row.device)
    kept = places < counts.to(row.device)[:, None]
    return torch.zeros_like(row, dtype=torch.bool).scatter_(1, order, kept)


def four_by_four(row: Tensor) -> Tensor:
    """Return a mask of the two highest of every four; of ones where rows are no multiple of 4."""
    if row.shape[1] % 4:
        return torch.ones_like(row, dtype=torch.bool)
    fours = row.reshape(-1, 4)
    return best_of(fours, torch.full((len(fours),), 2)).view(row.shape)


@contextmanager
def _listening(network: PromptedClassifier, squares: dict[str, Tensor]) -> Iterator[None]:
    """Add to ``squares`` what goes into each layer."""

    def hear(name: str, layer: MaskedLayer, inputs: Sequence[Any]) -> None:
        squares[name] += squares_seen(layer, inputs[0])

    handles = [
        layer.register_forward_pre_hook(partial(hear, name))
        for name, layer in masked_layers(network.backbone)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def squares_seen(layer: MaskedLayer, inputs: Tensor) -> Tensor:
    """Return the sum of squares of all values that each weight of a layer is multiplied with.

    Args:
        layer: A convolution or a linear layer.
        inputs: What goes into it: (N, C, H, W), or (..., C).

    Returns:
        A tensor that broadcasts to the weight: rows of one group are equal.
    """
    if not isinstance(layer, MaskedConv2d):
        return inputs.flatten(0, -2).square().sum(0)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    power = functional.pad(inputs, layer._reversed_padding_repeated_twice, mode).square().sum(0)
    height, width = layer.kernel_size
    taps = [
        _seen_by_tap(power, layer, row, column) for row in range(height) for column in range(width)
    ]
    seen = torch.stack(taps, -1).view(layer.groups, -1, height, width)
    return seen.repeat_interleave(layer.out_channels // layer.groups, 0)


def _seen_by_tap(power: Tensor, layer: MaskedConv2d, row: int, column: int) -> Tensor:
    """Return, for each input channel, the sum over the positions one kernel entry meets."""
    spans = []
    for axis, at in enumerate((row, column)):
        first = at * layer.dilation[axis]
        reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
        last = power.shape[1 + axis] - reach + first
        spans.append(slice(first, last, layer.stride[axis]))
    return power[:, spans[0], spans[1]].sum((1, 2))
