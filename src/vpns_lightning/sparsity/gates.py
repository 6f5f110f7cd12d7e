"""Channels that are switched off by a gate while it is being learned which of them to remove.

A gate multiplies both factors of batch normalisation, because that alone equals removing the
channel: a zeroed convolution still sends ``beta - gamma * mean / std`` on. Where no normalisation
follows, it multiplies a layer's weight rows and bias. Or it multiplies the weight columns of every
layer that reads the channel, which removes it just as well.
"""

from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from vpns_lightning.sparsity.layers import MaskedConv2d, MaskedLinear, replace_module
from vpns_lightning.sparsity.straight_through import StraightThrough

Norm = TypeVar("Norm", bound=nn.BatchNorm2d)


class Gated(nn.Module):
    """What gated layers share.

    Attributes:
        channel_scores: float32 parameter of shape (channels,), one for all layers of a group.
        channel_gate: Bool buffer of shape (channels,); True is kept.
        gated_dim: 0 gates rows and bias, 1 columns.
        channel_of: int64 buffer (columns,): the channel that each column reads, where a layer
            reads several values of a channel; else None.
    """

    channel_scores: nn.Parameter
    channel_gate: Tensor
    gated_dim: int
    channel_of: Tensor | None

    def share(self, scores: nn.Parameter, columns: Tensor | None = None) -> None:
        """Learn these scores, and start with an open gate.

        Args:
            scores: Of the group's channels.
            columns: The channel that each column reads, (columns,) int64; None gates rows.
        """
        self.channel_scores = scores
        self.register_buffer("channel_gate", torch.ones_like(scores, dtype=torch.bool))
        self.gated_dim = 0 if columns is None else 1
        spread = columns is not None and len(columns) != len(scores)
        where = columns.to(scores.device) if columns is not None and spread else None
        self.register_buffer("channel_of", where, persistent=False)

    def gated(self, values: Tensor) -> Tensor:
        """Return weights, factors or biases with closed channels zero.

        The gradient reaches the score of every channel, closed ones included: with ``g`` the
        gradient at what is returned, ``sign(score) * sum(values * g)``.
        """
        scores: Tensor = self.channel_scores
        gate = self.channel_gate
        if self.channel_of is not None:
            scores, gate = scores[self.channel_of], gate[self.channel_of]
        shape = [-1 if dim == self.gated_dim else 1 for dim in range(values.dim())]
        scores, gate = (part.view(shape).expand_as(values) for part in (scores, gate))
        gated: Tensor = StraightThrough.apply(values, scores, gate)
        return gated


class GatedBatchNorm2d(Gated, nn.BatchNorm2d):
    """Batch normalisation whose two factors carry a gate."""

    @classmethod
    def from_dense(cls, dense: nn.BatchNorm2d, scores: nn.Parameter) -> "GatedBatchNorm2d":
        """Return a gated layer that shares parameters and statistics with ``dense``."""
        layer = _like(cls, dense)
        layer.share(scores)
        return layer

    def to_dense(self) -> nn.BatchNorm2d:
        """Return the layer without its gate, all channels open."""
        return _like(nn.BatchNorm2d, self)

    def forward(self, input: Tensor) -> Tensor:
        """Return (N, C, H, W) normalised, closed channels zero."""
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None and self.num_batches_tracked is not None:
            momentum = 1.0 / max(float(self.num_batches_tracked), 1.0)
        return nn.functional.batch_norm(
            input,
            self.running_mean,
            self.running_var,
            self.gated(self.weight),
            self.gated(self.bias),
            self.training or self.running_mean is None,
            0.0 if momentum is None else momentum,
            self.eps,
        )


class GatedConv2d(Gated, MaskedConv2d):
    """A convolution whose rows and bias, or whose columns, carry a gate."""

    def effective_weight(self) -> Tensor:
        """Return the weight, closed rows or columns zero."""
        return self.gated(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution of (N, C, H, W) without closed channels."""
        bias = self.bias if self.bias is None or self.gated_dim else self.gated(self.bias)
        output: Tensor = self._conv_forward(input, self.effective_weight(), bias)
        return output


class GatedLinear(Gated, MaskedLinear):  # type: ignore[misc]  # see MaskedLinear
    """A linear layer whose rows and bias, or whose columns, carry a gate."""

    def effective_weight(self) -> Tensor:
        """Return the weight, closed rows or columns zero."""
        return self.gated(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input`` of shape (..., in_features) times the weight, closed ones left out."""
        bias = self.bias if self.bias is None or self.gated_dim else self.gated(self.bias)
        return nn.functional.linear(input, self.effective_weight(), bias)


def _like(kind: type[Norm], norm: nn.BatchNorm2d) -> Norm:
    layer = kind(norm.num_features, norm.eps, norm.momentum, device="meta")
    layer.affine, layer.track_running_stats = norm.affine, norm.track_running_stats
    for name in ("weight", "bias"):
        layer.register_parameter(name, getattr(norm, name))
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        layer.register_buffer(name, getattr(norm, name))
    return layer.train(norm.training)


def gate_layer(
    module: nn.Module, name: str, scores: nn.Parameter, columns: Tensor | None = None
) -> None:
    """Give a layer below ``module`` a gate; batch normalisation, masked convolution or linear.

    Args:
        module: The network.
        name: Of the layer.
        scores: Of the group's channels.
        columns: See :meth:`Gated.share`.
    """
    layer = module.get_submodule(name)
    gated: GatedBatchNorm2d | GatedConv2d | GatedLinear
    if isinstance(layer, nn.BatchNorm2d):
        gated = GatedBatchNorm2d.from_dense(layer, scores)
    elif isinstance(layer, nn.Conv2d):
        adopted = GatedConv2d.from_dense(layer)
        assert isinstance(adopted, GatedConv2d)
        gated = adopted
        gated.share(scores, columns)
    else:
        assert isinstance(layer, nn.Linear)
        linear = GatedLinear.from_dense(layer)
        assert isinstance(linear, GatedLinear)
        gated = linear
        gated.share(scores, columns)
    replace_module(module, name, gated)


def open_gates(module: nn.Module) -> None:
    """Put ungated layers back, in place; their masks are ones."""
    for name, layer in list(gated_layers(module)):
        if isinstance(layer, GatedBatchNorm2d):
            replace_module(module, name, layer.to_dense())
        elif isinstance(layer, GatedConv2d):
            replace_module(module, name, MaskedConv2d.from_dense(layer))
        else:
            assert isinstance(layer, GatedLinear)
            replace_module(module, name, MaskedLinear.from_dense(layer))


def gated_layers(module: nn.Module) -> Iterator[tuple[str, Gated]]:
    """Yield (name, layer) of every gated layer, in ``named_modules`` order."""
    for name, child in module.named_modules():
        if isinstance(child, Gated):
            yield name, child


def get_gates(module: nn.Module) -> dict[str, Tensor]:
    """Return layer name to gate, one layer for each group that shares scores."""
    first: dict[nn.Parameter, tuple[str, Tensor]] = {}
    for name, layer in gated_layers(module):
        first.setdefault(layer.channel_scores, (name, layer.channel_gate))
    return dict(first.values())
