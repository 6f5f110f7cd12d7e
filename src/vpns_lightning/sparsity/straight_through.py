"""What autograd sees of a mask: three functions that multiply by it in different stages."""

from typing import Any

import torch
from torch import Tensor

from vpns_lightning.sparsity import device_search


def masked(values: Tensor, mask: Tensor) -> Tensor:
    """Return ``mask * values``, both of one shape, ``mask`` bool."""
    if values.device.type == "cpu":
        # bytes convert five times as fast as bools there
        return mask.view(torch.uint8).to(values.dtype).mul_(values)
    return values * mask


def score_gradient(scores: Tensor, weight: Tensor, grad: Tensor) -> Tensor:
    """Return ``sign(scores) * weight * grad``: on a GPU in one launch, for which Triton is asked.

    Where the network is compiled, the compiler makes one of the expression.
    """
    fusible = scores.device.type == "cuda" and not torch.compiler.is_compiling()
    if fusible and device_search.compiles(scores.device):
        from vpns_lightning.sparsity import score_gradient as fused

        if fused.can_read(scores, weight, grad):
            return fused.score_gradient(scores, weight, grad)
    return torch.sign(scores).mul_(weight).mul_(grad)


class StraightThrough(torch.autograd.Function):
    """Masked weight whose gradient reaches the score of every weight, pruned ones included.

    Forward ``z = mask * weight``; backward, with ``g`` the gradient at ``z``:
    ``d/d scores = sign(scores) * weight * g`` and ``d/d weight = mask * g`` (VPNs, Eq. 5, with the
    straight-through estimator of Bengio et al., 2013, https://arxiv.org/abs/1308.3432).
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
        """Return ``mask * weight``; all three tensors share one shape, ``mask`` is bool."""
        ctx.save_for_backward(weight, scores, mask)
        return masked(weight, mask)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Return the gradients of weight (if wanted), scores (if wanted) and None."""
        weight, scores, mask = ctx.saved_tensors
        grad = grads[0]
        to_weight = masked(grad, mask) if ctx.needs_input_grad[0] else None
        to_scores = score_gradient(scores, weight, grad) if ctx.needs_input_grad[1] else None
        return to_weight, to_scores, None


class Masked(torch.autograd.Function):
    """``mask * weight`` that keeps the bool mask for backward, not a float copy of it."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor) -> Tensor:
        """Return ``mask * weight``, both of one shape, ``mask`` bool."""
        ctx.save_for_backward(mask)
        return masked(weight, mask)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Return ``mask * grad``; pruned weights get exactly zero."""
        (mask,) = ctx.saved_tensors
        return masked(grads[0], mask), None


class MaskedGradient(torch.autograd.Function):
    """The weight itself, for weights that already carry their mask; only gradients are masked."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor) -> Tensor:
        """Return ``weight`` unchanged."""
        ctx.save_for_backward(mask)
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Return ``mask * grad``; pruned weights get exactly zero, so they stay zero."""
        (mask,) = ctx.saved_tensors
        return masked(grads[0], mask), None
