"""Convolution and linear layers that carry their mask as a bool buffer.

A subclass, not a parametrization: state-dict keys stay the dense network's, layers pickle and copy,
and ``torch.compile``, DDP and Torch-Pruning see an ordinary layer.
"""

import re
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from vpns_lightning.base.errors import UserError
from vpns_lightning.sparsity.attention import CalledAttention, can_be_called
from vpns_lightning.sparsity.straight_through import Masked, MaskedGradient, StraightThrough


class MaskedLayer(nn.Module):
    """What a masked convolution and a masked linear layer share.

    Attributes:
        weight: Parameter of the dense layer, shared with it.
        mask: Bool buffer of the weight's shape; True is kept.
        scores: float32 parameter of the weight's shape while a mask is being learned, else None.
        baked: The weight already carries the mask (see :func:`bake`).
        full: While baked: the mask keeps everything, so there is nothing to do.
    """

    weight: Tensor
    bias: Tensor | None
    mask: Tensor
    scores: nn.Parameter | None
    baked: bool
    full: bool

    def _adopt(self, dense: nn.Conv2d | nn.Linear) -> None:
        """Take over the parameters of ``dense`` and start with a mask of ones."""
        self.weight = dense.weight
        self.bias = dense.bias
        self.register_buffer("mask", torch.ones_like(dense.weight, dtype=torch.bool))
        self.register_parameter("scores", None)
        self.baked = False
        self.full = False
        self.train(dense.training)

    def effective_weight(self) -> Tensor:
        """Return ``mask * weight``, differentiable as the stage at hand needs it."""
        if self.scores is not None:
            masked: Tensor = StraightThrough.apply(self.weight, self.scores, self.mask)
        elif self.baked and self.full:
            masked = self.weight
        elif self.baked:
            masked = MaskedGradient.apply(self.weight, self.mask)
        else:
            masked = Masked.apply(self.weight, self.mask)
        return masked


class MaskedConv2d(MaskedLayer, nn.Conv2d):
    """``nn.Conv2d`` whose weight is multiplied by a bool mask."""

    @classmethod
    def from_dense(cls, dense: nn.Conv2d) -> "MaskedConv2d":
        """Return a masked layer that shares the parameters of ``dense``."""
        layer = cls(
            dense.in_channels,
            dense.out_channels,
            dense.kernel_size,  # type: ignore[arg-type]  # torch types a 2-d kernel as a tuple of any length
            dense.stride,  # type: ignore[arg-type]  # same
            dense.padding,  # type: ignore[arg-type]  # same
            dense.dilation,  # type: ignore[arg-type]  # same
            dense.groups,
            dense.bias is not None,
            dense.padding_mode,
            device="meta",
        )
        layer._adopt(dense)
        return layer

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution of (N, C, H, W) with the masked weight."""
        output: Tensor = self._conv_forward(input, self.effective_weight(), self.bias)
        return output


class MaskedLinear(MaskedLayer, nn.Linear):  # type: ignore[misc]  # torch declares a bias that may be None as Tensor
    """``nn.Linear`` whose weight is multiplied by a bool mask."""

    @classmethod
    def from_dense(cls, dense: nn.Linear) -> "MaskedLinear":
        """Return a masked layer that shares the parameters of ``dense``."""
        layer = cls(dense.in_features, dense.out_features, dense.bias is not None, device="meta")
        layer._adopt(dense)
        return layer

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input`` of shape (..., in_features) times the masked weight."""
        return nn.functional.linear(input, self.effective_weight(), self.bias)


def masked_layers(module: nn.Module) -> Iterator[tuple[str, MaskedLayer]]:
    """Yield (name, layer) of every masked layer, in ``named_modules`` order."""
    for name, child in module.named_modules():
        if isinstance(child, MaskedLayer):
            yield name, child


def mask_layers(module: nn.Module, *, exclude: Sequence[str] = ()) -> nn.Module:
    """Replace every ``nn.Conv2d`` and ``nn.Linear`` below ``module`` by a masked one, in place.

    Exact types only: a subclass may use its weight outside ``forward``, where a mask would be
    ignored. So does ``nn.MultiheadAttention``, which :class:`CalledAttention` stands in for.
    Calling it again changes nothing.

    Args:
        module: The network.
        exclude: Regular expressions searched in layer names; what matches stays dense.

    Raises:
        UserError: ``exclude`` holds no regular expression.
    """
    try:
        patterns = [re.compile(pattern) for pattern in exclude]
    except re.error as error:
        raise UserError(f"exclude: {error.pattern!r} is no regular expression ({error})") from None
    _replace_all(
        module, lambda child: CalledAttention.from_dense(child) if can_be_called(child) else None
    )
    masked: dict[nn.Module, MaskedLayer] = {}
    # a layer used under two names is listed twice, and must become one masked layer
    for name, child in list(module.named_modules(remove_duplicate=False)):
        if any(pattern.search(name) for pattern in patterns):
            continue
        if type(child) is nn.Conv2d and child not in masked:
            masked[child] = MaskedConv2d.from_dense(child)
        elif type(child) is nn.Linear and child not in masked:
            masked[child] = MaskedLinear.from_dense(child)
        if child in masked:
            replace_module(module, name, masked[child])
    return module


@torch.no_grad()
def unmask_layers(module: nn.Module) -> nn.Module:
    """Fold every mask into its weight and put plain layers back, in place."""
    _replace_all(module, lambda child: _folded(child) if isinstance(child, MaskedLayer) else None)
    _replace_all(
        module, lambda child: child.to_dense() if isinstance(child, CalledAttention) else None
    )
    return module


def _folded(layer: MaskedLayer) -> nn.Module:
    """Return the plain layer of a masked one, pruned weights zero."""
    dense: nn.Conv2d | nn.Linear
    if isinstance(layer, MaskedConv2d):
        dense = nn.Conv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,  # type: ignore[arg-type]  # see MaskedConv2d.from_dense
            layer.stride,  # type: ignore[arg-type]  # same
            layer.padding,  # type: ignore[arg-type]  # same
            layer.dilation,  # type: ignore[arg-type]  # same
            layer.groups,
            layer.bias is not None,
            layer.padding_mode,
            device="meta",
        )
    else:
        assert isinstance(layer, MaskedLinear)
        dense = nn.Linear(
            layer.in_features, layer.out_features, layer.bias is not None, device="meta"
        )
    layer.weight.mul_(layer.mask)
    for name, parameter in layer.named_parameters(recurse=False):
        if name != "scores":
            dense.register_parameter(name, parameter)
    return dense.train(layer.training)


def _replace_all(module: nn.Module, new_for: Callable[[nn.Module], nn.Module | None]) -> None:
    """Put ``new_for(child)`` in the place of every child below ``module`` it is not None for."""
    made: dict[nn.Module, nn.Module] = {}
    # a module used under two names is listed twice, and must become one
    for name, child in list(module.named_modules(remove_duplicate=False)):
        if name and child not in made and (new := new_for(child)) is not None:
            made[child] = new
        if child in made:
            replace_module(module, name, made[child])


def replace_module(root: nn.Module, name: str, new: nn.Module) -> None:
    """Put ``new`` where ``root`` has the module called ``name``."""
    parent, _, leaf = name.rpartition(".")
    setattr(root.get_submodule(parent), leaf, new)


@torch.no_grad()
def bake(module: nn.Module) -> None:
    """Zero the pruned weights once, so that a tuning step needs no mask in its forward pass.

    Only the gradients are masked from here on; with an optimiser that starts fresh the pruned
    weights stay exactly zero (zero gradient, zero momentum, zero decay).
    """
    for _, layer in masked_layers(module):
        layer.weight.mul_(layer.mask)
        layer.baked, layer.full = True, bool(layer.mask.all())


def unbake(module: nn.Module) -> None:
    """Return to masking in the forward pass, which holds whatever happens to the weights."""
    for _, layer in masked_layers(module):
        layer.baked = False
