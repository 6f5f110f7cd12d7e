"""Groups of channels that can only go together, and their removal, by Torch-Pruning.

Fang et al., 2023, https://arxiv.org/abs/2301.12900.
"""

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vpns_lightning.errors import UserError
from vpns_lightning.network.backbones import head_of
from vpns_lightning.network.classifier import PromptedClassifier
from vpns_lightning.sparsity import mask_layers, masked_layers, unmask_layers

Norm = nn.modules.batchnorm._BatchNorm

SIZE_WITHOUT_PROMPT = 224  # px


class Member(NamedTuple):
    """One dimension of a layer that follows the channels of its group.

    Attributes:
        layer: Name in the backbone.
        role: "rows" (outputs, and everything of a normalisation) or "columns" (inputs).
        size: Of that dimension.
        positions: Positions in that dimension, (k,) int64.
        channel: Channel of the group at each position, (k,) int64.
        bare: A producer whose output is not normalised.
    """

    layer: str
    role: str
    size: int
    positions: Tensor
    channel: Tensor
    bare: bool

    def reads(self) -> Tensor | None:
        """Return the channel of every column, (size,) int64; None if it reads others too."""
        if sorted(self.positions.tolist()) != list(range(self.size)):
            return None
        return self.channel[self.positions.argsort()]

    def whole(self) -> bool:
        """Return whether the group's channels are all of the dimension, in its order."""
        order = torch.arange(self.size)
        return torch.equal(self.positions, order) and torch.equal(self.channel, order)


class ChannelGroup(NamedTuple):
    """Channels that are removed together from all layers that make, normalise or read them.

    Attributes:
        name: The first layer that makes them.
        channels: How many there are.
        members: Where.
    """

    name: str
    channels: int
    members: tuple[Member, ...]

    def norms(self, backbone: nn.Module) -> list[Norm]:
        """Return the group's batch normalisations."""
        layers = [backbone.get_submodule(m.layer) for m in self.members if m.role == "rows"]
        return [layer for layer in layers if isinstance(layer, Norm)]


def find_groups(
    network: PromptedClassifier, input_size: int | None = None
) -> tuple[ChannelGroup, ...]:
    """Return the groups of a network whose outputs may all be pruned; the head's never may.

    Args:
        network: Left as it is; a copy without masks is traced in evaluation mode.
        input_size: Side of the backbone's input to trace with, px; the prompt's canvas, or 224 px
            without one, where None.

    Raises:
        UserError: The backbone cannot be traced, or a group touches a layer of a kind that cannot
            be cut here.
    """
    protected = _unprunable(network)
    bare = _backbone_without_masks(deepcopy(network.backbone))
    graph, groups = _trace(bare, _size(network, input_size), protected)
    names = {module: name for name, module in bare.named_modules()}
    found = {group.name: group for group in (_read_group(graph, g, names) for g in groups)}
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
    graph, found = _trace(backbone, _size(network, input_size), protected)
    names = {module: name for name, module in backbone.named_modules()}
    roots = {_read_group(graph, each, names).name: each[0].dep for each in found}
    for group in groups:
        removed = (~kept[group.name]).nonzero().flatten().tolist()
        if removed:
            root = roots[group.name]
            graph.get_pruning_group(root.target.module, root.handler, removed).prune()
        _record(network, group, kept[group.name])
    plain = [name for name, m in backbone.named_modules() if name not in masked and _has_mask(m)]
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
            assert part is None or int(part.sum()) == _size_of(layer, rows), name


def _unprunable(network: PromptedClassifier) -> set[str]:
    """Return the layers whose outputs stay: the head, and those that carry no mask."""
    head, _ = head_of(network.backbone)
    masked = {name for name, _ in masked_layers(network.backbone)}
    layers = {name for name, module in network.backbone.named_modules() if _has_mask(module)}
    return {head} | (layers - masked)


def _has_mask(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d | nn.Linear)


def _modes(module: nn.Module) -> dict[str, bool]:
    return {name: child.training for name, child in module.named_modules()}


def _size(network: PromptedClassifier, input_size: int | None) -> int:
    if input_size is not None:
        return input_size
    return SIZE_WITHOUT_PROMPT if network.prompt is None else network.prompt.canvas_size


def _backbone_without_masks(backbone: nn.Module) -> nn.Module:
    # Torch-Pruning follows autograd, and normalisation must not learn from its images
    return unmask_layers(backbone).eval().requires_grad_(True)


def _trace(backbone: nn.Module, size: int, protected: set[str]) -> tuple[Any, list[Any]]:
    """Return Torch-Pruning's graph and its groups."""
    import torch_pruning  # heavy, and only structured pruners need it

    graph = torch_pruning.DependencyGraph()
    images = torch.zeros(1, 3, size, size, device=next(backbone.parameters()).device)
    try:
        with torch.enable_grad():
            graph.build_dependency(
                backbone, images, forward_fn=lambda model, shown: model.forward(shown)
            )
            ignored = [backbone.get_submodule(name) for name in sorted(protected)]
            groups = list(graph.get_all_groups(ignored_layers=ignored))
    except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"the channels of this backbone cannot be followed at {size} px ({reason}): set "
            "find.pruner.input_size to the size it is trained at, or prune it unstructured"
        ) from None
    return graph, groups


def _read_group(graph: Any, group: Any, names: Mapping[nn.Module, str]) -> ChannelGroup:
    members = []
    for item in group:
        layer = item.dep.target.module
        if layer not in names and not isinstance(layer, nn.Parameter):
            continue  # an operation without parameters
        name = names.get(layer, "a free parameter")
        _check_kind(name, layer)
        outputs = graph.is_out_channel_pruning_fn(item.dep.handler)
        rows = outputs or isinstance(layer, Norm) or _is_depthwise(layer)
        followers = item.dep.target.outputs
        normalised = [isinstance(each.module, Norm) for each in followers]
        members.append(
            Member(
                name,
                "rows" if rows else "columns",
                _size_of(layer, rows),
                torch.tensor(item.idxs),
                torch.tensor(item.root_idxs),
                rows and _has_mask(layer) and not (normalised and all(normalised)),
            )
        )
    return ChannelGroup(_name_of(members, names), len(group[0].idxs), tuple(members))


def _name_of(members: Sequence[Member], names: Mapping[nn.Module, str]) -> str:
    """Return the first layer, in the network's order, that makes all channels of a group."""
    makers = {
        member.layer
        for module, name in names.items()
        for member in members
        if member.layer == name and member.role == "rows" and _has_mask(module) and member.whole()
    }
    return next(name for name in names.values() if name in makers)


def _size_of(layer: nn.Module, rows: bool) -> int:
    if isinstance(layer, Norm):
        return layer.num_features
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.shape[0 if rows else 1]


def _is_depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1


def _check_kind(name: str, layer: nn.Module) -> None:
    plain = type(layer) in (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.SyncBatchNorm)
    if not plain or (
        isinstance(layer, nn.Conv2d) and layer.groups > 1 and not _is_depthwise(layer)
    ):
        kind = "grouped convolution" if plain else type(layer).__name__
        raise UserError(
            f"channels through {name!r} ({kind}) cannot be cut: structured pruning handles "
            "convolutions, linear layers and BatchNorm2d, as in resnet18, resnet50, vgg16, vgg16_bn"
        )
