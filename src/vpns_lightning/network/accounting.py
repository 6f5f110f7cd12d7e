"""Parameters and multiply-accumulates of a network, defined once.

A MAC is one multiplication with its addition in a convolution or linear layer; FLOPs are twice
that. Unstructured zeros are not skipped by any runtime, so effective MACs are a count, not a time.
Channels that were cut are not there at all.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vpns_lightning.network.backbones import head_of
from vpns_lightning.network.classifier import PromptedClassifier
from vpns_lightning.sparsity import (
    SparsityReport,
    can_be_called,
    get_gates,
    get_masks,
    masked_layers,
    sparsity_report,
)

UNIT = "multiply-accumulates of one image in convolution and linear layers; FLOPs are twice that"


class Accounting(NamedTuple):
    """What a network costs.

    Attributes:
        parameters: Values of all parameters of the backbone, before any channel was cut.
        parameters_kept: The same without pruned weights and cut channels.
        prompt_parameters: Values the prompt learns.
        macs: MACs of one image through convolution and linear layers, dense and uncut.
        effective_macs: Those of the layers as they are, each times the fraction its mask keeps.
    """

    parameters: int
    parameters_kept: int
    prompt_parameters: int
    macs: int
    effective_macs: int


@torch.no_grad()
def account(network: PromptedClassifier, input_size: int) -> Accounting:
    """Count parameters and MACs at the size the backbone really sees.

    Args:
        network: The network.
        input_size: Side of the images before prompting, px.
    """
    macs = layer_macs(network, input_size)
    kept = {name: float(mask.float().mean()) for name, mask in get_masks(network.backbone).items()}
    stored = sum(p.numel() for p in network.backbone.parameters())
    pruned = sum(int((~mask).sum()) for mask in get_masks(network.backbone).values())
    return Accounting(
        parameters=dense_parameters(network),
        parameters_kept=stored - pruned,
        prompt_parameters=0 if network.prompt is None else network.prompt.num_parameters,
        macs=sum(_dense(network, f"{name}.weight", count) for name, count in macs.items()),
        effective_macs=round(sum(count * kept.get(name, 1.0) for name, count in macs.items())),
    )


def dense_parameters(network: PromptedClassifier) -> int:
    """Return how many values the backbone's parameters had before any channel was cut."""
    sizes = {name: p.numel() for name, p in network.backbone.named_parameters()}
    return sum(_dense(network, name, size) for name, size in sizes.items())


def _dense(network: PromptedClassifier, parameter: str, kept: int) -> int:
    layer, _, name = parameter.rpartition(".")
    cut = network.cuts.layers().get(layer)
    return kept if cut is None else cut.dense_size(name, kept)


def network_report(network: PromptedClassifier) -> SparsityReport:
    """Return how sparse a network is: in weights, or in channels where channels are pruned.

    Of a cut network, and of one that learns which channels to cut, ``sparsity`` is the fraction of
    channels removed; all else counts weights of the layers that can be pruned.
    """
    report = sparsity_report(network.backbone)
    groups = network.cuts.groups() or get_gates(network.backbone)
    if not groups:
        return report
    channels = sum(kept.numel() for kept in groups.values())
    left = sum(int(kept.sum()) for kept in groups.values())
    masks = get_masks(network.backbone)
    sizes = {n: _dense(network, f"{n}.weight", mask.numel()) for n, mask in masks.items()}
    return SparsityReport(
        sparsity=1 - left / channels,
        per_layer={name: 1 - int(mask.sum()) / sizes[name] for name, mask in masks.items()},
        total=sum(sizes.values()),
        kept=report.kept,
        collapsed=report.collapsed,
    )


def layer_macs(network: PromptedClassifier, input_size: int) -> dict[str, int]:
    """Return the MACs of one image in every convolution and linear layer of the backbone.

    The projections of attention are layers too, masked or not; its products are not.
    """
    macs: dict[str, int] = {}

    def count(name: str, weight: Tensor, output: Tensor) -> None:
        # one image was shown, so whatever stands first, windows or tokens, is of that image
        macs[name] = macs.get(name, 0) + output.numel() * weight[0].numel()

    was_training = network.training
    network.eval()
    with _hooked(network.backbone, count):
        network(torch.zeros(1, 3, input_size, input_size, device=network.mean.device))
    network.train(was_training)
    return macs


@contextmanager
def _hooked(backbone: nn.Module, count: Callable[[str, Tensor, Tensor], None]) -> Iterator[None]:
    """Call ``count`` with a layer's name, weight and output whenever one has run."""

    def layer(name: str) -> Any:
        return lambda module, _, output: count(name, module.weight, output)

    def attention(name: str) -> Any:
        def of_both(module: nn.MultiheadAttention, _: object, outputs: tuple[Tensor, ...]) -> None:
            count(f"{name}.out_proj", module.out_proj.weight, outputs[0])
            for third in module.in_proj_weight.chunk(3):
                count(f"{name}.in_proj", third, outputs[0])

        return of_both

    handles = [
        module.register_forward_hook(attention(name) if can_be_called(module) else layer(name))
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) or can_be_called(module)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def effective_sparsity(network: PromptedClassifier) -> float:
    """Return the fraction removed among weights that can reach the target logits.

    Head rows of source classes that no target class is mapped to never matter; where the head was
    not sliced they are left out here. Of a cut network, the fraction of weights that are gone.
    """
    if network.cuts.groups():
        report = network_report(network)
        return 1 - report.kept / report.total
    total = kept = 0
    head_name, _ = head_of(network.backbone)
    for name, layer in masked_layers(network.backbone):
        mask = layer.mask
        if name == head_name and not network.mapping.sliced:
            mask = mask[network.mapping.sequence]
        total, kept = total + mask.numel(), kept + int(mask.sum())
    return 1 - kept / total if total else 0.0
