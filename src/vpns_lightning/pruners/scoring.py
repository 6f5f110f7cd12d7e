"""The state in which networks are scored, and the way back to the one they were found in."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from vpns_lightning.network import PromptedClassifier

BNMode = Literal["eval", "train"]


@contextmanager
def scoring(network: PromptedClassifier, bn_mode: BNMode = "eval") -> Iterator[None]:
    """Score a network in full precision, uncompiled, without dropout; leave no trace.

    Training flags, ``requires_grad``, ``.grad``, batch-norm statistics and random states are as
    before when the block ends, also when it ends in an error.

    Args:
        network: The network; in the block its prunable weights require gradients.
        bn_mode: Statistics that batch normalisation uses: ``"eval"`` the stored ones, ``"train"``
            those of the batch.
    """
    device = network.mean.device
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        # half precision makes thousands of scores tie, and its products underflow
        stack.enter_context(torch.autocast(device.type, enabled=False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(_flags_kept(network))
        stack.enter_context(_statistics_kept(network))
        network.eval()  # which also runs it uncompiled
        if bn_mode == "train":
            for module in _batch_norms(network):
                module.train()
        for weight in network.prunable().values():
            weight.requires_grad_(True)
        yield


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Attend by plain matrix products: the backward pass of fused kernels has no derivative."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


@contextmanager
def _flags_kept(network: nn.Module) -> Iterator[None]:
    training = [(module, module.training) for module in network.modules()]
    parameters = [(p, p.requires_grad, p.grad) for p in network.parameters()]
    for parameter, _, _ in parameters:
        parameter.grad = None
    try:
        yield
    finally:
        for module, flag in training:
            module.training = flag
        for parameter, learned, grad in parameters:
            parameter.requires_grad_(learned)
            parameter.grad = grad


@contextmanager
def _statistics_kept(network: nn.Module) -> Iterator[None]:
    kept = [(b, b.clone()) for module in _batch_norms(network) for b in module.buffers()]
    try:
        yield
    finally:
        for buffer, value in kept:
            buffer.copy_(value)


def _batch_norms(network: nn.Module) -> list[_BatchNorm]:
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]
