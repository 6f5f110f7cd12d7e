"""Optimisers that step on all tensors in a few kernels, where torch has such kernels."""

import inspect
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

# how torch's optimisers are told to take their steps; both unset, they choose
WAYS = ("fused", "foreach")


def is_fused(optimizer: Optimizer) -> bool:
    """Return whether an optimiser of torch takes fused steps, which it can skip on the device."""
    return _is_torch_s(optimizer) and all(g.get("fused") for g in optimizer.param_groups)


def few_kernels(optimizer: Optimizer, *, scaled: bool) -> Optimizer:
    """Return an optimiser that takes its steps as fast as can be; the same where nothing is gained.

    On CUDA a step is fused unless the config says how to take it. With scaled gradients (float16)
    no step is: it would unscale them inside, after the hooks that have to see them unscaled. Torch
    then steps on many tensors at once, or, on a CPU, on one after the other.

    Args:
        optimizer: Fresh, without state; its parameters on their final device.
        scaled: A scaler hands it gradients.
    """
    if not _is_torch_s(optimizer):
        return optimizer
    if scaled:
        # whether a step unscales by itself is said by a private flag, which only a new one is
        # without: groups may be changed openly, but the scaler does not look at them
        fused = any(group["fused"] for group in optimizer.param_groups)
        return _rebuilt(optimizer, fused=None) if fused else optimizer
    silent = all(group[way] is None for group in optimizer.param_groups for way in WAYS)
    # on a CPU a fused step rounds otherwise, and runs go on as they began
    if not (silent and _is_on_cuda(optimizer)):
        return optimizer
    try:
        return _rebuilt(optimizer, fused=True)
    except RuntimeError:  # with options that have no fused kernel, such as differentiable
        return optimizer


def _is_torch_s(optimizer: Optimizer) -> bool:
    """Return whether torch wrote the optimiser, and can fuse it."""
    own = type(optimizer).__module__.startswith("torch.optim.")
    return own and all(way in optimizer.defaults for way in WAYS)


def _is_on_cuda(optimizer: Optimizer) -> bool:
    parameters: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
    return all(parameter.is_cuda for parameter in parameters)


def _rebuilt(optimizer: Optimizer, **changes: Any) -> Optimizer:
    """Return a new optimiser of the same parameters and options, but for ``changes``."""
    accepted = inspect.signature(type(optimizer)).parameters
    options = {k: v for k, v in (optimizer.defaults | changes).items() if k in accepted}
    groups = [group | changes for group in optimizer.param_groups]
    return type(optimizer)(groups, **options)
