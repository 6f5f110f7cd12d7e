"""The threshold and the masks on a device, without a value read back.

On CUDA a kernel family in Triton finds both; elsewhere, and where that cannot be used, torch's
operators do, over one flat vector. Both are exact and give the same masks.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

Keep = Callable[..., Tensor]


def keep_on_device(
    values: Sequence[Tensor],
    n_prune: int,
    masks: Sequence[Tensor],
    *,
    absolute: bool,
    exact: bool,
) -> Tensor:
    """Write which values survive when the ``n_prune`` lowest are removed; return the threshold.

    Args:
        values: float32 or float64 tensors of one device, without NaN.
        n_prune: Entries to remove over all tensors together, at least 1.
        masks: Bool tensors of the same shapes; written in place.
        absolute: Rank ``|values|``.
        exact: Keep ties by lower index, so that just ``n_prune`` go; else remove all of them.
    """
    keep = by_operators
    if values[0].device.type == "cuda" and compiles(values[0].device):
        from vpns_lightning.sparsity import radix_select

        if radix_select.can_read(values, masks):
            keep = radix_select.keep_by_radix
    return keep(values, n_prune, masks, absolute=absolute, exact=exact)


def by_operators(
    values: Sequence[Tensor],
    n_prune: int,
    masks: Sequence[Tensor],
    *,
    absolute: bool,
    exact: bool,
) -> Tensor:
    """Do what :func:`keep_on_device` does by torch's operators."""
    flat = torch.cat([value.flatten() for value in values])
    if absolute:
        flat.abs_()
    threshold = kth_on_device(flat, n_prune)
    kept = flat > threshold
    if exact:
        # no data-dependent shapes here: a nonzero() would wait for the device
        whole = torch.int32 if len(flat) < 2**31 else torch.int64
        needed = len(flat) - n_prune - kept.sum(dtype=whole)
        ties = flat == threshold
        kept |= ties & (ties.cumsum(0, dtype=whole) <= needed)
    parts = torch.split(kept, [mask.numel() for mask in masks])
    # what torch's optimisers copy many tensors with in one launch; in public there is copy_ alone
    torch._foreach_copy_(
        list(masks), [part.view(mask.shape) for part, mask in zip(parts, masks, strict=True)]
    )
    return threshold


def kth_on_device(values: Tensor, k: int) -> Tensor:
    """Return the ``k``-th smallest of a flat vector, 0-d: the smaller side of a top-k."""
    n = values.numel()
    if k <= n // 2:
        return torch.topk(values, k, largest=False, sorted=False).values.max()
    return torch.topk(values, n - k + 1, largest=True, sorted=False).values.min()


@lru_cache
def compiles(device: torch.device) -> bool:
    """Return whether Triton's kernels run on a CUDA device; warn, once, where they do not.

    The host waits for the device here, once a process.
    """
    try:
        from vpns_lightning.sparsity import radix_select

        scores = torch.arange(4.0, device=device)
        mask = torch.empty(4, dtype=torch.bool, device=device)
        radix_select.keep_by_radix([scores], 2, [mask], absolute=True, exact=True)
        if mask.tolist() != [False, False, True, True]:
            raise ArithmeticError(f"of 0, 1, 2, 3 the highest two are {mask.tolist()} there")
    # a missing package, compiler, driver or architecture: each fails by an exception of its own
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        warnings.warn(
            f"Triton does not run on {device} ({type(error).__name__}: {reason}): masks are "
            "selected by torch's operators, which are as exact but slower",
            stacklevel=2,
        )
        return False
    return True
