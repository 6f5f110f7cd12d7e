"""Which channels of which layers can only go together, as Torch-Pruning sees it.

Fang et al., 2023, https://arxiv.org/abs/2301.12900.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vpns_lightning.base.errors import UserError

Norm = nn.modules.batchnorm._BatchNorm
# what backbones raise at a size they cannot take, and Torch-Pruning at operations it cannot follow
FOREIGN_FAULTS = (
    *(RuntimeError, ValueError, TypeError, AttributeError, AssertionError),
    *(ArithmeticError, LookupError),
)
INSTEAD = (
    "remove single weights of it (OMP, LearnedScores and all other pruners that are not "
    "structured), or take resnet18, resnet50, mobilenet_v2 or vgg16_bn"
)


class Member(NamedTuple):
    """One dimension of a layer that follows the channels of its group.

    Attributes:
        layer: Name in the backbone.
        role: "rows" (outputs, and everything of a normalisation) or "columns" (inputs).
        size: Of that dimension.
        positions: Positions in that dimension, (k,) int64.
        channel: Channel of the group at each position, (k,) int64.
        turns: Which of these k come first for their channel, which second, and so on, int64 each.
        bare: A producer whose output is not normalised.
    """

    layer: str
    role: str
    size: int
    positions: Tensor
    channel: Tensor
    turns: tuple[Tensor, ...]
    bare: bool

    def to(self, device: torch.device) -> "Member":
        """Return the member with its indices on a device."""
        return self._replace(
            positions=self.positions.to(device),
            channel=self.channel.to(device),
            turns=tuple(turn.to(device) for turn in self.turns),
        )

    def add_up(self, values: Tensor, total: Tensor) -> None:
        """Add what lies at every position to its channel, in order.

        Not ``index_add_``: a GPU adds what meets in one channel in any order, and processes would
        drift apart.

        Args:
            values: Of the whole dimension, (size,).
            total: Of the group's channels, (channels,).
        """
        for turn in self.turns:
            total[self.channel[turn]] += values[self.positions[turn]]

    def reads(self) -> Tensor | None:
        """Return the channel of every column, (size,) int64; None if it reads others too."""
        if sorted(self.positions.tolist()) != list(range(self.size)):
            return None
        return self.channel[self.positions.argsort()]

    def whole(self) -> bool:
        """Return whether the group's channels are all of the dimension, in its order."""
        order = torch.arange(self.size, device=self.positions.device)
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

    def to(self, device: torch.device) -> "ChannelGroup":
        """Return the group with its indices on a device."""
        return self._replace(members=tuple(member.to(device) for member in self.members))

    def norms(self, backbone: nn.Module) -> list[Norm]:
        """Return the group's batch normalisations."""
        layers = [backbone.get_submodule(m.layer) for m in self.members if m.role == "rows"]
        return [layer for layer in layers if isinstance(layer, Norm)]


def has_weight_rows(module: nn.Module) -> bool:
    """Return whether a module is a convolution or a linear layer."""
    return isinstance(module, nn.Conv2d | nn.Linear)


def trace(backbone: nn.Module, size: int, protected: set[str]) -> tuple[Any, list[Any]]:
    """Return Torch-Pruning's graph and its groups.

    Args:
        backbone: Without masks, in evaluation mode, all parameters trainable.
        size: Side of the images it is shown, px.
        protected: Layers whose outputs stay.

    Raises:
        UserError: It cannot be traced.
    """
    import torch_pruning  # heavy, and only structured pruners need it

    images = torch.zeros(1, 3, size, size, device=next(backbone.parameters()).device)
    try:
        with torch.no_grad():
            backbone(images)
    except FOREIGN_FAULTS as error:
        raise UserError(
            f"this backbone takes no images of {size} px ({first_line(error)}): set "
            "find.pruner.input_size to the size it is trained at"
        ) from None
    graph = torch_pruning.DependencyGraph()
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            # about parameters outside layers, which are refused below
            warnings.filterwarnings("ignore", module="torch_pruning")
            graph.build_dependency(
                backbone, images, forward_fn=lambda model, shown: model.forward(shown)
            )
            _bound(graph, backbone)
            ignored = [backbone.get_submodule(name) for name in sorted(protected)]
            groups = list(graph.get_all_groups(ignored_layers=ignored))
    except FOREIGN_FAULTS as error:
        raise UserError(
            "which channels of this backbone go together cannot be followed "
            f"({first_line(error)}): {INSTEAD}"
        ) from None
    return graph, groups


class _Mappings(list[Any]):
    """How channels on one side of an operation follow from those on the other, within bounds.

    Behind windows of attention Torch-Pruning adds ever higher channels to a group, without an end,
    and takes no bound.
    """

    widest: int

    def __iter__(self) -> Iterator[Any]:
        for mapping in super().__iter__():
            yield None if mapping is None else partial(self._bounded, mapping)

    def _bounded(self, mapping: Callable[[Any], Any], channels: Any) -> Any:
        mapped = mapping(channels)
        if any(channel.idx >= self.widest for channel in mapped):
            raise LookupError("a group has channels that no layer has")
        return mapped


def _bound(graph: Any, backbone: nn.Module) -> None:
    """Have a graph refuse channels beyond those of the widest layer."""
    widest = max(max(parameter.shape, default=0) for parameter in backbone.parameters())
    for node in graph.module2node.values():
        for dependency in node.dependencies:
            dependency.index_mapping = _Mappings(dependency.index_mapping)
            dependency.index_mapping.widest = widest


def first_line(error: Exception) -> str:
    """Return what a foreign error begins with."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def read_group(graph: Any, group: Any, names: Mapping[nn.Module, str]) -> ChannelGroup:
    """Return one of Torch-Pruning's full groups by the names of its layers.

    Raises:
        UserError: It touches a layer of a kind that cannot be cut here.
    """
    members = []
    for item in group:
        layer = item.dep.target.module
        if layer not in names and not isinstance(layer, nn.Parameter):
            continue  # an operation without parameters
        name = names.get(layer, "a free parameter")
        _check_kind(name, layer)
        outputs = graph.is_out_channel_pruning_fn(item.dep.handler)
        rows = outputs or isinstance(layer, Norm) or is_depthwise(layer)
        size = size_of(layer, rows)
        if max(item.idxs) >= size or max(item.root_idxs) >= len(group[0].idxs):
            raise UserError(  # Torch-Pruning loses count behind a shuffle of channels
                f"which channels go through {name!r} cannot be followed: {INSTEAD}"
            )
        followers = item.dep.target.outputs
        normalised = [isinstance(each.module, Norm) for each in followers]
        members.append(
            Member(
                name,
                "rows" if rows else "columns",
                size,
                torch.tensor(item.idxs),
                torch.tensor(item.root_idxs),
                _turns(item.root_idxs),
                rows and has_weight_rows(layer) and not (normalised and all(normalised)),
            )
        )
    return ChannelGroup(_name_of(members, names), len(group[0].idxs), tuple(members))


def _turns(channels: Sequence[int]) -> tuple[Tensor, ...]:
    """Return the places at which a channel comes for the first time, for the second, and so on."""
    turns: list[list[int]] = []
    seen: Counter[int] = Counter()
    for place, channel in enumerate(channels):
        if seen[channel] == len(turns):
            turns.append([])
        turns[seen[channel]].append(place)
        seen[channel] += 1
    return tuple(torch.tensor(turn) for turn in turns)


def _name_of(members: Sequence[Member], names: Mapping[nn.Module, str]) -> str:
    """Return the first layer, in the network's order, that makes all channels of a group."""
    makers = {
        member.layer
        for module, name in names.items()
        for member in members
        if member.layer == name
        and member.role == "rows"
        and has_weight_rows(module)
        and member.whole()
    }
    return next(name for name in names.values() if name in makers)


def size_of(layer: nn.Module, rows: bool) -> int:
    """Return the outputs (rows) or inputs of a layer."""
    if isinstance(layer, Norm):
        return layer.num_features
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.shape[0 if rows else 1]


def is_depthwise(layer: nn.Module) -> bool:
    """Return whether a layer is a convolution of every channel by itself."""
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1


def _check_kind(name: str, layer: nn.Module) -> None:
    plain = type(layer) in (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.SyncBatchNorm)
    if not plain or (isinstance(layer, nn.Conv2d) and layer.groups > 1 and not is_depthwise(layer)):
        kind = "grouped convolution" if plain else type(layer).__name__
        raise UserError(
            f"channels through {name!r} ({kind}) cannot be cut, only those of convolutions, linear "
            f"layers and BatchNorm2d: {INSTEAD}"
        )
