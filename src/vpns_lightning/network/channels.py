"""Groups of channels that can only go together: finding them, and cutting them off."""

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from vpns_lightning.network.backbones import head_of
from vpns_lightning.network.channel_graph import (
    ChannelGroup,
    has_weight_rows,
    read_group,
    size_of,
    trace,
)
from vpns_lightning.network.classifier import PromptedClassifier
from vpns_lightning.network.trial_cut import remove_channels, try_cut
from vpns_lightning.sparsity import mask_layers, masked_layers, unmask_layers


def find_groups(
    network: PromptedClassifier, input_size: int | None = None
) -> tuple[ChannelGroup, ...]:
    """Return the groups of a network whose outputs may all be pruned; the head's never may.

    Args:
        network: Left as it is; a copy without masks is traced in evaluation mode.
        input_size: Side of the backbone's input to trace with, px; the prompt's canvas, or 224 px
            without one, where None.

    Raises:
        UserError: The backbone cannot be traced, a group touches a layer of a kind that cannot be
            cut here, or a trial cut shows that the groups are not those of the backbone.
    """
    protected, size = _unprunable(network), _size(network, input_size)
    bare = _backbone_without_masks(deepcopy(network.backbone))
    graph, groups = trace(bare, size, protected)
    names = {module: name for name, module in bare.named_modules()}
    read = [read_group(graph, group, names) for group in groups]
    found = {group.name: group for group in read}
    roots = {group.name: each[0].dep for group, each in zip(read, groups, strict=True)}
    try_cut(bare, graph, found, roots, size)
    # Torch-Pruning goes from the output to the input
    return tuple(found[name] for name in names.values() if name in found)


def cut(
    network: PromptedClassifier,
    groups: Sequence[ChannelGroup],
    kept: Mapping[str, Tensor],
    input_size: int | None = None,
) -> None:
    """Remove channels for good, in place, and write it into the network's history of cuts.

    Args:
        network: With masks of ones; it comes back masked as before.
        groups: Of :func:`find_groups`.
        kept: Group name to bool (channels,), True is kept, at least one of each.
        input_size: See :func:`find_groups`.

    Raises:
        UserError: The backbone cannot be traced.
    """
    backbone, modes = network.backbone, _modes(network.backbone)
    masked, protected = {name for name, _ in masked_layers(backbone)}, _unprunable(network)
    grads = {name: p.requires_grad for name, p in backbone.named_parameters()}
    _backbone_without_masks(backbone)
    graph, found = trace(backbone, _size(network, input_size), protected)
    names = {module: name for name, module in backbone.named_modules()}
    roots = {read_group(graph, each, names).name: each[0].dep for each in found}
    for group in groups:
        remove_channels(graph, roots[group.name], kept[group.name])
        _record(network, group, kept[group.name])
    plain = [
        name for name, m in backbone.named_modules() if name not in masked and has_weight_rows(m)
    ]
    mask_layers(backbone, exclude=[f"^{re.escape(name)}$" for name in plain])
    for name, module in backbone.named_modules():
        for key, value in list(module.named_parameters(recurse=False)):
            # as a network that loads the cut lays them out, so that resuming gives the same bits
            fresh = value.detach().clone(memory_format=torch.contiguous_format)
            needed = grads[f"{name}.{key}" if name else key]
            module.register_parameter(key, nn.Parameter(fresh, requires_grad=needed))
    if network.channels_last:
        backbone.to(memory_format=torch.channels_last)
    for name, training in modes.items():
        backbone.get_submodule(name).training = training
    _check_history(network)


def _record(network: PromptedClassifier, group: ChannelGroup, kept: Tensor) -> None:
    network.cuts.add(group.name, "channels", kept)
    for member in group.members:
        left = torch.ones(member.size, dtype=torch.bool, device=kept.device)
        left[member.positions.to(kept.device)] = kept[member.channel.to(kept.device)]
        network.cuts.add(member.layer, member.role, left)


def _check_history(network: PromptedClassifier) -> None:
    """Compare the history with the shapes that Torch-Pruning left."""
    for name, left in network.cuts.layers().items():
        layer = network.backbone.get_submodule(name)
        for part, rows in zip(left, (True, False), strict=True):
            assert part is None or int(part.sum()) == size_of(layer, rows), name


def _unprunable(network: PromptedClassifier) -> set[str]:
    """Return the layers whose outputs stay: the head, and those that carry no mask."""
    head, _ = head_of(network.backbone)
    masked = {name for name, _ in masked_layers(network.backbone)}
    layers = {name for name, module in network.backbone.named_modules() if has_weight_rows(module)}
    return {head} | (layers - masked)


def _modes(module: nn.Module) -> dict[str, bool]:
    return {name: child.training for name, child in module.named_modules()}


def _size(network: PromptedClassifier, input_size: int | None) -> int:
    return network.input_side() if input_size is None else input_size


def _backbone_without_masks(backbone: nn.Module) -> nn.Module:
    # Torch-Pruning follows autograd, and normalisation must not learn from its images
    return unmask_layers(backbone).eval().requires_grad_(True)
