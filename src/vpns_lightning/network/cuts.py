"""The history of a network's cuts: which channels of which layers are left.

It lives in the network as bool buffers, so it travels with every state dict, and a dense network
takes the stored shapes before its layers load.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vpns_lightning.base.errors import UserError

ROLES = ("channels", "rows", "columns")


class LayerCut(NamedTuple):
    """What is left of one layer.

    Attributes:
        rows: Bool (outputs of the dense layer,), True is kept; None where all are.
        columns: Bool (inputs of the dense layer,), the same.
    """

    rows: Tensor | None
    columns: Tensor | None

    def dense_size(self, name: str, kept: int) -> int:
        """Return how many there were before the cut.

        Args:
            name: Of the parameter; a weight loses rows and columns, anything else rows.
            kept: Values or operations that are left.
        """
        for part in (self.rows, self.columns if name == "weight" else None):
            if part is not None:
                kept = kept * part.numel() // int(part.sum())
        return kept


class Cuts(nn.Module):
    """Buffers ``<layer>.rows`` and ``<layer>.columns``, and ``<first layer>.channels`` of a group.

    Empty while nothing was cut.
    """

    def add(self, layer: str, role: str, kept: Tensor) -> None:
        """Remember what is left of a layer; what an earlier entry removed stays removed.

        Args:
            layer: Its name in the backbone.
            role: "rows", "columns", or "channels" for the group that the layer gives its name.
            kept: Bool (size in the dense network,), True is kept.
        """
        holder: nn.Module = self
        for part in layer.split("."):
            # not by attribute: a backbone's parts may be called as methods are here, say "layers"
            child = holder._modules.setdefault(part, nn.Module())
            assert child is not None
            holder = child
        known = getattr(holder, role, None)
        holder.register_buffer(role, kept.clone() if known is None else known & kept)

    def groups(self) -> dict[str, Tensor]:
        """Return group name to bool (channels of the dense group,), also where all are kept."""
        return dict(self._named("channels"))

    def layers(self) -> dict[str, LayerCut]:
        """Return layer name to what is left of it, for every layer that a group touches."""
        rows, columns = dict(self._named("rows")), dict(self._named("columns"))
        return {
            name: LayerCut(rows.get(name), columns.get(name)) for name in sorted({*rows, *columns})
        }

    def _named(self, role: str) -> Iterator[tuple[str, Tensor]]:
        for key, value in self.named_buffers():
            name, _, last = key.rpartition(".")
            if last == role:
                yield name, value

    def take(self, stored: Mapping[str, Tensor], backbone: nn.Module) -> None:
        """Cut a dense backbone as a state dict says; nothing where it is cut so already.

        Args:
            stored: Keys of :meth:`state_dict` to bool tensors.
            backbone: Cut in place.

        Raises:
            UserError: It was cut otherwise, or the history is of another network.
        """
        own = self.state_dict()
        if own:
            if own.keys() != stored.keys() or any(
                not torch.equal(own[key].cpu(), stored[key].cpu()) for key in own
            ):
                raise UserError(
                    "other channels were cut from this network than from the stored one: build the "
                    "network anew and load into that"
                )
            return
        device = next(backbone.parameters()).device
        for key, kept in stored.items():
            name, _, role = key.rpartition(".")
            if role not in ROLES or kept.dtype != torch.bool or kept.dim() != 1:
                raise UserError(f"a history of cuts holds no {key!r} of {kept.dtype}")
            self.add(name, role, kept.to(device))
        for name, cut in self.layers().items():
            slice_layer(backbone, name, cut)


def stored_cuts(state: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
    """Return the history in a state dict, by keys without ``prefix``."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


@torch.no_grad()
def slice_layer(backbone: nn.Module, name: str, cut: LayerCut) -> None:
    """Keep rows and columns of a dense layer, in place.

    Raises:
        UserError: There is no such layer, or it has another size.
    """
    try:
        layer = backbone.get_submodule(name)
    except AttributeError:
        raise UserError(f"a cut of another network: it names layer {name!r}") from None
    sizes = {0: cut.rows, 1: cut.columns}
    for key in ("weight", "bias", "mask", "running_mean", "running_var"):
        value = getattr(layer, key, None)
        if value is None:
            continue
        part = value.detach()
        for dim, kept in sizes.items():
            if kept is None or dim >= part.dim():
                continue
            if len(kept) != part.shape[dim]:
                raise UserError(
                    f"a cut of another network: layer {name!r} has {part.shape[dim]} channels, not "
                    f"{len(kept)}"
                )
            part = part.index_select(dim, kept.nonzero().flatten())
        part = part.clone(memory_format=torch.contiguous_format)
        if isinstance(value, nn.Parameter):
            setattr(layer, key, nn.Parameter(part, requires_grad=value.requires_grad))
        else:
            setattr(layer, key, part)
    _correct_sizes(layer, cut)


def _correct_sizes(layer: nn.Module, cut: LayerCut) -> None:
    rows = None if cut.rows is None else int(cut.rows.sum())
    columns = None if cut.columns is None else int(cut.columns.sum())
    if isinstance(layer, nn.Conv2d):
        if rows is not None and layer.groups > 1:  # depthwise; other groups are never cut
            layer.groups = layer.in_channels = rows
        layer.out_channels = rows or layer.out_channels
        layer.in_channels = columns or layer.in_channels
    elif isinstance(layer, nn.Linear):
        layer.out_features = rows or layer.out_features
        layer.in_features = columns or layer.in_features
    elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
        layer.num_features = rows or layer.num_features
