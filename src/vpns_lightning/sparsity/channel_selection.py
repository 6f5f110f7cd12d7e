"""Exact selection of channels: which of them survive in every group."""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from vpns_lightning.base.errors import UserError
from vpns_lightning.sparsity.topk import comparable, keep_highest, prune_count

ChannelScope = Literal["group", "global"]


def keep_channels(
    scores: Mapping[str, Tensor],
    sparsity: float,
    *,
    scope: ChannelScope = "group",
    min_keep: int = 1,
    round_to: int = 1,
) -> dict[str, Tensor]:
    """Return which channels survive when a fraction is removed, exact to the channel.

    Of n channels ``floor(sparsity * n)`` go, those with the lowest scores; ties are kept by lower
    index.

    Args:
        scores: Group name to score (channels,), no NaN; higher is better.
        sparsity: Fraction removed, in [0, 1).
        scope: "group" removes it from each group, "global" from all channels ranked together.
        min_keep: Channels that every group keeps at least, as far as it has them.
        round_to: Every group keeps a multiple of so many, rounded up: fewer are removed.

    Returns:
        Group name to bool (channels,).

    Raises:
        UserError: ``min_keep`` leaves too little to remove.
    """
    ranked = {name: comparable(score) for name, score in scores.items()}
    if scope == "global":
        kept = _globally(ranked, sparsity, min_keep)
        return (
            kept if round_to == 1 else {n: _filled_up(ranked[n], kept[n], round_to) for n in kept}
        )
    counts = {
        name: len(score) - prune_count(len(score), sparsity) for name, score in ranked.items()
    }
    return {
        name: _highest(score, _rounded(counts[name], len(score), min_keep, round_to))
        for name, score in ranked.items()
    }


def _rounded(count: int, channels: int, min_keep: int, round_to: int) -> int:
    return min(channels, math.ceil(max(count, min_keep) / round_to) * round_to)


def _highest(score: Tensor, count: int) -> Tensor:
    mask = torch.empty_like(score, dtype=torch.bool)
    keep_highest([score], len(score) - count, [mask])
    return mask


def _filled_up(score: Tensor, kept: Tensor, round_to: int) -> Tensor:
    """Return the highest scores, as many as are kept and a few more; no count leaves the device."""
    count = -(-kept.sum() // round_to) * round_to
    order = score.argsort(descending=True, stable=True)
    mask = torch.empty_like(kept)
    mask[order] = torch.arange(len(score), device=score.device) < count
    return mask


def _globally(ranked: Mapping[str, Tensor], sparsity: float, min_keep: int) -> dict[str, Tensor]:
    total = sum(len(score) for score in ranked.values())
    n_prune = prune_count(total, sparsity)
    free = total - sum(min(min_keep, len(score)) for score in ranked.values())
    if n_prune > free:
        raise UserError(
            f"{n_prune} of {total} channels cannot be removed when every group keeps {min_keep}: "
            f"at most {free} can; lower find.sparsity or find.pruner.min_keep"
        )
    values = [
        score.masked_fill(_highest(score, min(min_keep, len(score))), math.inf)
        for score in ranked.values()
    ]
    masks = [torch.empty_like(value, dtype=torch.bool) for value in values]
    keep_highest(values, n_prune, masks)
    return dict(zip(ranked, masks, strict=True))
