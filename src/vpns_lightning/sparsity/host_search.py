"""The threshold among millions of scores on a CPU, found in one pass over them."""

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array: TypeAlias = npt.NDArray[Any]
BLOCK = 1 << 16  # values: 256 KB of float32, which a core's second-level cache holds
STRIDE = 89  # one value of so many is sampled; a prime, so that no channel is favoured
SAMPLED_FROM = 1 << 18  # values; fewer are searched as they are


def above_on_host(
    values: Sequence[Tensor], n_prune: int, masks: Sequence[Tensor], absolute: bool
) -> Tensor:
    """Write which ranks are strictly above the ``n_prune``-th smallest; return that one, 0-d.

    A sample says between which two ranks the threshold almost surely lies. What is outside is
    decided at once, and only the little inside is searched: exact, because a threshold that lies
    elsewhere shows in the counts and is then searched among all. Blocks in memory order stay in a
    core's cache.

    Args:
        values: Dense float32 or float64 tensors on the CPU, without NaN.
        n_prune: Entries to remove over all tensors together, at least 1.
        masks: Bool tensors of the same shapes; written in place.
        absolute: Rank ``|values|``.
    """
    parts = [_as_laid_out(value, mask) for value, mask in zip(values, masks, strict=True)]
    scores, kept = _blocks(parts), _blocks(masks)
    rank = np.abs if absolute else np.positive
    low, high = _bracket(scores, rank, n_prune)
    threshold = _search(scores, kept, rank, n_prune, low, high)
    if threshold is None:
        threshold = _search(scores, kept, rank, n_prune, -math.inf, math.inf)
    return torch.tensor(threshold)


def _bracket(scores: Sequence[Array], rank: np.ufunc, n_prune: int) -> tuple[float, float]:
    """Return two values between which the ``n_prune``-th rank lies, almost surely."""
    total = sum(len(block) for block in scores)
    if total < SAMPLED_FROM:
        return -math.inf, math.inf
    sample = np.sort(
        np.concatenate([rank(block[index % 7 :: STRIDE]) for index, block in enumerate(scores)])
    )
    fraction = n_prune / total
    place = fraction * len(sample)
    # five standard deviations of the place of that rank in a random sample
    margin = 5 * math.sqrt(len(sample) * fraction * (1 - fraction)) + 1
    low, high = math.floor(place - margin), math.ceil(place + margin)
    return (
        sample[low] if low >= 0 else -math.inf,
        sample[high] if high < len(sample) else math.inf,
    )


def _search(
    scores: Sequence[Array],
    kept: Sequence[Array],
    rank: np.ufunc,
    n_prune: int,
    low: float,
    high: float,
) -> np.floating[Any] | None:
    """Write which ranks are above the ``n_prune``-th smallest and return that, if it is in a range.

    Args:
        scores: Flat blocks of at most ``BLOCK`` values.
        kept: Flat bool blocks of the same lengths, written.
        rank: What to rank values by.
        n_prune: Entries to remove, at least 1.
        low: Where the range begins.
        high: Where it ends.

    Returns:
        The threshold; None, and undefined ``kept``, where it is outside of the range.
    """
    dtype = scores[0].dtype
    below = 0
    near: list[tuple[Array, Array, Array]] = []
    ranks, inside = np.empty(BLOCK, dtype), np.empty(BLOCK, np.bool_)
    for block, above in zip(scores, kept, strict=True):
        size = len(block)
        values = rank(block, out=ranks[:size])
        np.greater(values, dtype.type(high), out=above)
        np.greater_equal(values, dtype.type(low), out=inside[:size])
        np.not_equal(inside[:size], above, out=inside[:size])
        places = np.flatnonzero(inside[:size])
        below += size - int(np.count_nonzero(above)) - len(places)
        near.append((above, places, values[places]))
    candidates = np.concatenate([found for _, _, found in near])
    if not 0 < n_prune - below <= len(candidates):
        return None
    candidates.partition(n_prune - below - 1)
    threshold = candidates[n_prune - below - 1]
    for above, places, found in near:
        above[places] = found > threshold
    return threshold  # type: ignore[no-any-return]  # numpy says Any


def _blocks(tensors: Sequence[Tensor]) -> list[Array]:
    """Return flat views of dense tensors in memory order, cut into blocks."""
    flat = [_in_memory_order(tensor).numpy() for tensor in tensors]
    return [part[at : at + BLOCK] for part in flat for at in range(0, len(part), BLOCK)]


def _as_laid_out(value: Tensor, mask: Tensor) -> Tensor:
    """Return ``value`` with the strides of ``mask``, itself if it has them."""
    if value.stride() == mask.stride():
        return value
    return torch.empty_like(mask, dtype=value.dtype).copy_(value)


def _in_memory_order(tensor: Tensor) -> Tensor:
    """Return the flat view of a dense tensor in memory order, which may not be the logical one."""
    if tensor.dim() == 4 and not tensor.is_contiguous():
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.view(-1)
