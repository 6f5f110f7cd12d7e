"""How many weights each layer may keep."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def erdos_renyi_kernel(shapes: Sequence[Sequence[int]], n_keep: int) -> list[int]:
    """Share ``n_keep`` weights among layers in proportion to the sum of their dimensions (ERK).

    A layer of shape (out, in, h, w) gets density proportional to
    ``(out + in + h + w) / (out * in * h * w)``, at most 1; what full layers cannot take goes to the
    others. Rounding is by largest remainder, so the counts add up to ``n_keep``.

    Args:
        shapes: Weight shapes.
        n_keep: Weights kept over all layers, at most all there are.

    Returns:
        Weights kept of each layer.
    """
    named = {str(index): shape for index, shape in enumerate(shapes)}
    raw = {name: sum(shape) / math.prod(shape) for name, shape in named.items()}
    fractions = filled_up(raw, named, n_keep)
    ideal = [fractions[name] * math.prod(shape) for name, shape in named.items()]
    counts: list[int] = apportion(ideal, n_keep).tolist()
    return counts


def filled_up(
    raw: Mapping[str, float], shapes: Mapping[str, Sequence[int]], budget: float
) -> dict[str, float]:
    """Return ``min(1, e * raw)`` for each layer, with the ``e`` that uses up the budget.

    Args:
        raw: Layer name to its fraction, up to the common factor.
        shapes: Layer name to the shape of its weight.
        budget: Weights kept over all these layers, at most as many as there are.
    """
    dense: set[str] = set()
    while True:
        free = [name for name in raw if name not in dense]
        left = budget - sum(math.prod(shapes[name]) for name in dense)
        weight = sum(raw[name] * math.prod(shapes[name]) for name in free)
        factor = left / weight if free else 0.0
        # what exceeds 1 now exceeds it all the more once others are full
        full = {name for name in free if factor * raw[name] > 1}
        if not full:
            return {name: 1.0 if name in dense else factor * raw[name] for name in raw}
        dense |= full


def apportion(ideal: Sequence[float] | Tensor, total: int) -> Tensor:
    """Return whole numbers near ``ideal`` that sum to ``total``: largest remainders are rounded up.

    Args:
        ideal: n numbers >= 0 that sum to about ``total``.
        total: The sum.

    Returns:
        int64 tensor of shape (n,), on the CPU; equal remainders go by index.
    """
    exact = torch.as_tensor(ideal, dtype=torch.float64).cpu()
    counts = exact.floor()
    # rounded, so that floating-point noise does not order what is equal
    order = torch.sort((exact - counts).round(decimals=6), descending=True, stable=True).indices
    counts[order[: total - int(counts.sum())]] += 1
    return counts.long()
