"""The gradient of scores on a GPU, in one launch in place of three."""

# Triton's decorators have no types
# mypy: disable-error-code="untyped-decorator"

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024
MOST = 2**31 - BLOCK  # values whose numbers fit 32 bits


@triton.jit(do_not_specialize=["size"])
def _score_gradient(
    scores: tl.tensor,
    weight: tl.tensor,
    grad: tl.tensor,
    out: tl.tensor,
    size: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """Write ``sign(scores) * weight * grad``."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = at < size
    score = tl.load(scores + at, mask=there)
    value = tl.load(weight + at, mask=there)
    signed = tl.where(score > 0, value, tl.where(score < 0, -value, value * 0))
    tl.store(out + at, signed * tl.load(grad + at, mask=there), mask=there)


def score_gradient(scores: Tensor, weight: Tensor, grad: Tensor) -> Tensor:
    """Return ``sign(scores) * weight * grad``, of the layout of ``scores``.

    Args:
        scores: float32, without gaps in memory.
        weight: Of the same shape, type and layout, as :func:`can_read` says.
        grad: Same.
    """
    out = torch.empty_like(scores)
    size = scores.numel()
    # Triton launches on the current device, whichever the tensors are of
    with torch.cuda.device(scores.device) if scores.is_cuda else nullcontext():
        _score_gradient[(triton.cdiv(size, BLOCK),)](scores, weight, grad, out, size, BLOCK)
    return out


def can_read(scores: Tensor, weight: Tensor, grad: Tensor) -> bool:
    """Return whether tensors are of the kind that :func:`score_gradient` takes."""
    single = scores.dtype == weight.dtype == grad.dtype == torch.float32
    alike = scores.stride() == weight.stride() == grad.stride()
    last = scores.dim() == 4 and scores.is_contiguous(memory_format=torch.channels_last)
    return single and alike and (scores.is_contiguous() or last) and 0 < scores.numel() < MOST
