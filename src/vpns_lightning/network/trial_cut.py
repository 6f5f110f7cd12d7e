"""A cut on trial: a backbone must answer without channels as it does with them at zero."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vpns_lightning.base.errors import UserError
from vpns_lightning.network.channel_graph import FOREIGN_FAULTS, INSTEAD, ChannelGroup, first_line

ROUNDING = 1e-4  # of the largest answer, float32 through the deepest networks
DEVIATION = 0.01  # of what two images differ by


def remove_channels(graph: Any, root: Any, kept: Tensor) -> None:
    """Remove channels of one group from all layers of a traced backbone.

    Args:
        graph: Torch-Pruning's.
        root: What its group begins with.
        kept: Bool (channels,), True stays.
    """
    removed = (~kept).nonzero().flatten().tolist()
    if removed:
        graph.get_pruning_group(root.target.module, root.handler, removed).prune()


@torch.no_grad()
def try_cut(
    backbone: nn.Module,
    graph: Any,
    groups: Mapping[str, ChannelGroup],
    roots: Mapping[str, Any],
    size: int,
) -> None:
    """Cut half of every group off, and compare the answers with those of zeros in their place.

    Torch-Pruning takes what it does not know for an operation on each channel by itself. Where that
    is wrong, as behind a shuffle of channels, other channels would go than those that were chosen.

    Args:
        backbone: A copy to be thrown away: it is cut.
        graph: Of the copy.
        groups: By name.
        roots: Group name to what its group begins with.
        size: Side of the images, px.

    Raises:
        UserError: The answers differ, or the backbone does not run without these channels.
    """
    generator = torch.Generator().manual_seed(0)  # the run's own numbers stay as they are
    device = next(backbone.parameters()).device
    images = torch.randn(2, 3, size, size, generator=generator).to(device)
    kept = {}
    for name, group in groups.items():
        order = torch.randperm(group.channels, generator=generator)
        kept[name] = order >= group.channels // 2
        _set_to_zero(backbone, group, ~kept[name])
    try:
        expected = backbone(images)
        for name, root in roots.items():
            remove_channels(graph, root, kept[name])
        difference = (backbone(images) - expected).abs().max()
    except FOREIGN_FAULTS as error:
        raise UserError(
            f"this backbone does not run without some of its channels ({first_line(error)}): "
            f"{INSTEAD}"
        ) from None
    visible = difference > ROUNDING * expected.abs().max()
    if visible and difference > DEVIATION * (expected[0] - expected[1]).abs().max():
        raise UserError(
            "which channels of this backbone go together cannot be followed (a trial cut removes "
            f"others than those chosen): {INSTEAD}"
        )


def _set_to_zero(backbone: nn.Module, group: ChannelGroup, removed: Tensor) -> None:
    """Zero all that makes, normalises or reads channels."""
    for member in group.members:
        layer = backbone.get_submodule(member.layer)
        at = member.positions[removed[member.channel]].to(next(backbone.parameters()).device)
        for parameter in (layer.weight, layer.bias):
            if parameter is None:
                continue
            assert isinstance(parameter, Tensor)
            if member.role == "rows":
                parameter[at] = 0
            elif parameter.dim() > 1:
                parameter[:, at] = 0
