"""Selection, restated: sort everything in pure Python."""

from collections.abc import Sequence

import torch
from torch import Tensor


def keep_by_sorting(scores: Sequence[Tensor], n_prune: int) -> list[Tensor]:
    """Return masks that keep all but ``n_prune`` entries: highest first, then lowest flat index."""
    flat = [float(value) for tensor in scores for value in tensor.double().reshape(-1)]
    order = sorted(range(len(flat)), key=lambda index: (-flat[index], index))
    kept = set(order[: len(flat) - n_prune])
    masks, start = [], 0
    for tensor in scores:
        entries = [index in kept for index in range(start, start + tensor.numel())]
        masks.append(torch.tensor(entries, dtype=torch.bool).reshape(tensor.shape))
        start += tensor.numel()
    return masks
