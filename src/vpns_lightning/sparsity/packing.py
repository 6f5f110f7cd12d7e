"""Sparse tensors in little room: the values that are not zero, and one bit for every place.

A tensor ``name`` becomes ``name.kept`` (its values, row-major), ``name.places`` (uint8, eight
places a byte, the highest bit first) and ``name.shape`` (int64).
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from vpns_lightning.base.errors import UserError

PARTS = ("kept", "places", "shape")


def pack(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict in which every tensor that gets smaller by it is packed.

    Args:
        state: Name to tensor, on the CPU.
    """
    packed: dict[str, Tensor] = {}
    for name, value in state.items():
        kept = value.flatten()[value.flatten() != 0]
        saved = (value.numel() - kept.numel()) * value.element_size() - (value.numel() + 7) // 8
        if saved <= 8 * (value.ndim + 1):
            packed[name] = value
            continue
        places = np.packbits((value.flatten() != 0).numpy())
        packed[f"{name}.kept"] = kept
        packed[f"{name}.places"] = torch.from_numpy(places)
        packed[f"{name}.shape"] = torch.tensor(value.shape)
    return packed


def unpack(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict that :func:`pack` was given; one without packed tensors as it is.

    Raises:
        UserError: Parts of a tensor are missing, or do not fit each other.
    """
    state: dict[str, Tensor] = {}
    for name, value in packed.items():
        stem, _, part = name.rpartition(".")
        parts = [packed.get(f"{stem}.{each}") for each in PARTS]
        if part not in PARTS or all(each is None for each in parts):
            state[name] = value
        elif part == PARTS[0]:
            state[stem] = _unpacked(stem, *parts)
        elif parts[0] is None:
            raise UserError(f"packed tensor {stem!r} lacks its values: the file is damaged")
    return state


def _unpacked(
    name: str, kept: Tensor | None, places: Tensor | None, shape: Tensor | None
) -> Tensor:
    if kept is None or places is None or shape is None:
        raise UserError(f"packed tensor {name!r} lacks a part: the file is damaged")
    sizes = [int(size) for size in shape.flatten().tolist()]
    total = int(np.prod(sizes, dtype=object)) if sizes else 1
    whole = min(sizes, default=1) >= 0 and places.dtype == torch.uint8 and kept.ndim == 1
    if whole and places.shape == ((total + 7) // 8,):
        # the bits' count bounds what is allocated, so a claimed size cannot exhaust the memory
        mask = torch.from_numpy(np.unpackbits(places.numpy(), count=total).astype(bool)).view(sizes)
        if int(mask.sum()) == kept.numel():
            return torch.zeros(sizes, dtype=kept.dtype).masked_scatter_(mask, kept)
    raise UserError(f"the parts of packed tensor {name!r} do not fit: the file is damaged")
