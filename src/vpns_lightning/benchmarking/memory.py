"""Peak memory of a training step, as torch's allocators count it."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from vpns_lightning.benchmarking.runtimes import Precision, runs_in
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.sparsity import bake


def training_memory(
    network: PromptedClassifier,
    input_size: int,
    batch_size: int,
    device: torch.device,
    *,
    precision: Precision = "32-true",
) -> int:
    """Return the bytes held at the peak of one training step: forward, backward, SGD's update.

    Parameters, buffers, gradients, momentum, activations and the batch count; scratch space that
    a library takes for itself does not. Weights are trained as in the tuning stage, masks held.

    Args:
        network: The network; left as it is.
        input_size: Side of the images before prompting, px.
        batch_size: Images in the step.
        device: Where to take it.
        precision: Of the step.
    """
    trained = deepcopy(network).cpu().train().requires_grad_(True)
    bake(trained.backbone)
    images = torch.rand(batch_size, 3, input_size, input_size)
    labels = torch.arange(batch_size) % network.num_classes
    if device.type == "cuda":
        return _peak_on_cuda(trained, images, labels, device, precision)
    held = sum(value.numel() * value.element_size() for value in _tensors(trained, images, labels))
    return held + _growth(_step(trained, images, labels, precision))


def _tensors(network: nn.Module, *batch: Tensor) -> Iterator[Tensor]:
    yield from network.parameters()
    yield from network.buffers()
    yield from batch


def _step(
    network: PromptedClassifier, images: Tensor, labels: Tensor, precision: Precision
) -> Callable[[], None]:
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        with runs_in(precision, images.device):
            loss = nn.functional.cross_entropy(network(images), labels)
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _peak_on_cuda(
    network: PromptedClassifier,
    images: Tensor,
    labels: Tensor,
    device: torch.device,
    precision: Precision,
) -> int:
    """Return the peak of a second step: the first makes momentum, and libraries their workspace."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    step = _step(network.to(device), images.to(device), labels.to(device), precision)
    step()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _growth(step: Callable[[], None]) -> int:
    """Return by how many bytes the CPU allocator's total rises at most during a call."""
    with _quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    assert profiler.profiler is not None
    results = profiler.profiler.kineto_results
    assert results is not None
    changes = sorted(
        (event.start_ns(), event.nbytes()) for event in results.events() if event.name() == _MEMORY
    )
    total = peak = 0
    for _, change in changes:
        total += change
        peak = max(peak, total)
    return peak


_MEMORY = "[memory]"  # the profiler's name of an allocation or release


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the profiler's remarks on itself and on absent devices off the terminal."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
