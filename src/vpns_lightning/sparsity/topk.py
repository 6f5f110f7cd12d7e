"""Exact selection: which weights survive when a given fraction is removed."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vpns_lightning.base.errors import UserError
from vpns_lightning.base.tensors import all_finite
from vpns_lightning.sparsity.device_search import keep_on_device, kth_on_device
from vpns_lightning.sparsity.host_search import above_on_host
from vpns_lightning.sparsity.levels import Scope, check_sparsity, ranked_together

TieRule = Literal["exact", "threshold"]


def prune_count(total: int, sparsity: float) -> int:
    """Return how many of ``total`` weights are removed: ``floor(round(sparsity * total, 6))``.

    Rounding first undoes floating-point error: 0.1 of 10 weights is 1, not 0.
    """
    return math.floor(round(check_sparsity(sparsity) * total, 6))


def comparable(scores: Tensor) -> Tensor:
    """Return scores in a dtype that keeps them apart: float64 stays, all else becomes float32.

    Half precision manufactures ties, so it is never ranked as such.
    """
    return scores.detach() if scores.dtype == torch.float64 else scores.detach().float()


def kth_smallest(values: Tensor, k: int) -> Tensor:
    """Return the ``k``-th smallest value, bit-identical to ``torch.kthvalue(values, k).values``.

    On a CPU a quick-select (numpy's, vectorised); elsewhere the smaller side of a top-k, because
    ``kthvalue`` of one flat vector runs on a single CUDA block. No host synchronisation.

    Args:
        values: Tensor of shape (n,), float32 or float64, without NaN.
        k: Rank, 1 <= k <= n.

    Returns:
        0-d tensor of the dtype and device of ``values``.
    """
    if values.device.type == "cpu":
        return torch.tensor(np.partition(values.detach().numpy(), k - 1)[k - 1])
    return kth_on_device(values, k)


@torch.no_grad()
def keep_highest(
    scores: Sequence[Tensor],
    n_prune: int,
    masks: Sequence[Tensor],
    *,
    absolute: bool = False,
    tie_rule: TieRule = "exact",
) -> Tensor:
    """Write into ``masks`` which entries survive when the ``n_prune`` lowest are removed.

    Ties at the threshold are kept by lower flat index (order of the sequence, then logical order
    inside a tensor), so exactly ``n_prune`` entries are False. ``tie_rule="threshold"`` removes
    every entry that is not strictly above the threshold, as the released code of VPNs does.

    Args:
        scores: Tensors of any shapes and float dtypes, no NaN; higher is better.
        n_prune: Entries to remove over all tensors together.
        masks: Bool tensors of the same shapes; written in place.
        absolute: Rank ``|scores|``.
        tie_rule: ``"exact"`` or ``"threshold"``.

    Returns:
        The threshold, a 0-d tensor: the ``n_prune``-th smallest score, -inf if none is removed.
    """
    values = [comparable(s) for s in scores]
    if n_prune <= 0:
        for mask in masks:
            mask.fill_(True)
        return values[0].new_full((), -math.inf)
    exact = tie_rule == "exact"
    if values[0].device.type != "cpu":
        return keep_on_device(values, n_prune, masks, absolute=absolute, exact=exact)
    threshold = above_on_host(values, n_prune, masks, absolute)
    if exact:
        n_keep = sum(v.numel() for v in values) - n_prune
        _fill_up_with_ties(values, masks, threshold, n_keep, absolute=absolute)
    return threshold


def _fill_up_with_ties(
    values: Sequence[Tensor],
    masks: Sequence[Tensor],
    threshold: Tensor,
    n_keep: int,
    *,
    absolute: bool,
) -> None:
    """Add tied entries of the CPU to ``masks`` until exactly ``n_keep`` are kept."""
    needed = n_keep - sum(int(np.count_nonzero(mask.numpy())) for mask in masks)
    for value, mask in zip(values, masks, strict=True):
        if needed == 0:
            return
        ties = (value.abs() if absolute else value) == threshold
        places = ties.flatten().nonzero().flatten()[:needed]
        chosen = torch.zeros(ties.numel(), dtype=torch.bool)
        chosen[places] = True
        mask.logical_or_(chosen.view(ties.shape))
        needed -= len(places)


def check_scores(scores: Mapping[str, Tensor]) -> None:
    """Refuse scores by which nothing can be ranked.

    Raises:
        UserError: A score is NaN or infinite; the layer is named.
    """
    for name, score in scores.items():
        if not all_finite(score):
            raise UserError(
                f"layer {name!r} has scores that are NaN or infinite; nothing can be ranked by "
                "them: lower the learning rate, or compute the scores in float64"
            )


def select(
    scores: Mapping[str, Tensor],
    sparsity: float,
    *,
    scope: Scope = "global",
    tie_rule: TieRule = "exact",
    alive: Mapping[str, Tensor] | None = None,
    levels: Mapping[str, float] | None = None,
) -> dict[str, Tensor]:
    """Return bool masks that keep the highest scores, exact to the weight.

    Args:
        scores: Layer name to score tensor; higher is better.
        sparsity: Fraction removed, in [0, 1), of all weights, pruned ones included.
        scope: ``"global"`` ranks all weights together, ``"layer"`` each layer by itself.
        tie_rule: See :func:`keep_highest`.
        alive: Masks of an earlier round; what is False there stays removed.
        levels: Layer name to its own sparsity, which holds in that layer alone.

    Raises:
        UserError: A score is NaN or infinite (the layer is named), the sparsity is out of range,
            or fewer weights are alive than must be kept.
    """
    check_sparsity(sparsity)
    check_scores(scores)
    ranked = {}
    for name, score in scores.items():
        value = comparable(score)
        ranked[name] = value if alive is None else value.masked_fill(~alive[name], -math.inf)
    masks = {name: torch.empty_like(value, dtype=torch.bool) for name, value in ranked.items()}
    for group, level in ranked_together(ranked, sparsity, scope=scope, levels=levels):
        _select_group({n: ranked[n] for n in group}, level, masks, tie_rule)
    return masks


def _select_group(
    ranked: Mapping[str, Tensor], sparsity: float, masks: Mapping[str, Tensor], tie_rule: TieRule
) -> None:
    total = sum(value.numel() for value in ranked.values())
    n_prune = prune_count(total, sparsity)
    n_alive = sum(int((value > -math.inf).sum()) for value in ranked.values())
    if n_alive < total - n_prune:
        raise UserError(
            f"{total - n_prune} weights must be kept at sparsity {sparsity}, but only {n_alive} "
            "are left by the earlier mask: ask for a higher sparsity"
        )
    names = list(ranked)
    keep_highest([ranked[n] for n in names], n_prune, [masks[n] for n in names], tie_rule=tie_rule)
