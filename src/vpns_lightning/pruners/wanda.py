"""Wanda: weights and activations (Sun et al., 2024, https://arxiv.org/abs/2306.11695)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from vpns_lightning.base.errors import UserError
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.pruners.base import Batch, StageLike
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


class Wanda(DataSaliency):
    """Keep, in every output row, the weights of highest ``|weight| * norm of their input``.

    The norm is over all images and, in a convolution, all positions that a weight is applied at.
    Rows differ by at most one weight, so that the total is exact.

    Args:
        pattern: ``"2:4"`` keeps two of every four consecutive weights of a row, which sparse
            kernels of GPUs can run; sparsity must be 0.5, and layers whose rows are no multiple
            of four stay dense.
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
        samples_per_class: int = 10,
        chunk: int = 64,
        bn_mode: BNMode = "eval",
    ) -> None:
        super().__init__(samples_per_class=samples_per_class, chunk=chunk, bn_mode=bn_mode)
        if pattern not in (None, "2:4"):
            raise UserError(f"pattern must be '2:4' or null, got {pattern!r}")
        self.pattern = pattern

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
        super().attach(network, sparsity)

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
        rows = {name: score.flatten(1) for name, score in scores.items()}
        kept: dict[str, Tensor] = {}
        for names, level in ranked_together(rows, sparsity, levels=self.levels):
            group = {name: rows[name] for name in names}
            if self.pattern:
                kept |= {name: four_by_four(row) for name, row in group.items()}
            else:
                kept |= row_by_row(group, level)
        return {name: mask.view(scores[name].shape) for name, mask in kept.items()}


def row_by_row(rows: dict[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Return masks that keep the same fraction of every row, exact in total.

    Args:
        rows: Layer name to scores of shape (rows, weights in a row).
        sparsity: Fraction removed, in [0, 1).
    """
    total = sum(row.numel() for row in rows.values())
    n_keep = total - prune_count(total, sparsity)
    lengths = torch.cat([torch.full((len(row),), row.shape[1]) for row in rows.values()])
    counts = apportion(lengths.double() * (n_keep / total), n_keep)
    of_layer = torch.split(counts, [len(row) for row in rows.values()])
    return {n: best_of(row, k) for (n, row), k in zip(rows.items(), of_layer, strict=True)}


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
