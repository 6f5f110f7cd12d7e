"""Masks as data: reading, setting, counting and storing them."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vpns_lightning.base.errors import UserError
from vpns_lightning.sparsity.layers import masked_layers


class SparsityReport(NamedTuple):
    """How sparse a network is, counted in weights.

    Attributes:
        sparsity: Fraction of prunable weights removed, over all layers.
        per_layer: Layer name to fraction removed.
        total: Prunable weights.
        kept: Weights kept.
        collapsed: Layers with nothing kept.
    """

    sparsity: float
    per_layer: dict[str, float]
    total: int
    kept: int
    collapsed: list[str]


def get_masks(module: nn.Module) -> dict[str, Tensor]:
    """Return layer name to mask (the buffers themselves, bool)."""
    return {name: layer.mask for name, layer in masked_layers(module)}


@torch.no_grad()
def set_masks(module: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Copy ``masks`` into the network.

    Raises:
        UserError: A layer is missing or unknown, or a shape or dtype differs; the first such
            layer is named.
    """
    own = get_masks(module)
    for name in [*own, *masks]:
        if name not in masks or name not in own:
            where = "the masks lack" if name not in masks else "the network lacks"
            raise UserError(f"masks of another network: {where} layer {name!r}")
        if masks[name].shape != own[name].shape or masks[name].dtype != torch.bool:
            raise UserError(
                f"masks of another network: layer {name!r} needs bool {tuple(own[name].shape)}, "
                f"got {masks[name].dtype} {tuple(masks[name].shape)}"
            )
    for name, mask in own.items():
        mask.copy_(masks[name])


def sparsity_report(module: nn.Module) -> SparsityReport:
    """Count removed weights per layer and over all layers; of plain layers, those that are zero."""
    plain = (
        (name, layer)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    )
    masks = get_masks(module) or {name: layer.weight != 0 for name, layer in plain}
    sizes = {name: mask.numel() for name, mask in masks.items()}
    kept = {name: int(mask.sum()) for name, mask in masks.items()}
    total, all_kept = sum(sizes.values()), sum(kept.values())
    return SparsityReport(
        sparsity=1 - all_kept / total if total else 0.0,
        per_layer={name: 1 - kept[name] / sizes[name] for name in masks},
        total=total,
        kept=all_kept,
        collapsed=[name for name in masks if kept[name] == 0],
    )


def tensors_hash(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return the SHA-256 (hex) of names, dtypes, shapes and contents in order."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name}:{plain.dtype}:{tuple(plain.shape)};".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def names_hash(module: nn.Module) -> str:
    """Return the SHA-256 (hex) of the prunable layers' names and shapes."""
    lines = (f"{name}:{tuple(mask.shape)}" for name, mask in get_masks(module).items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
