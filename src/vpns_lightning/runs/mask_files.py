"""``masks.safetensors`` read without torch: which weights of each layer a run has kept."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from vpns_lightning.base.errors import UserError
from vpns_lightning.base.files import text_hash

Masks = dict[str, NDArray[np.bool_]]
PREFIX = "mask."


def read_masks(path: Path) -> Masks:
    """Return layer name to mask, of the shape of the layer's weight, True where it is kept.

    Args:
        path: The file.

    Raises:
        UserError: It is missing, damaged, or holds no masks.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
            stored = file.metadata() or {}
        _check(tensors, stored)
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise UserError(
            f"cannot read masks from {str(path)!r} ({' '.join(str(error).split())}): give a run "
            "whose masks.safetensors is whole"
        ) from None
    masks = {n.removeprefix(PREFIX): t for n, t in tensors.items() if n.startswith(PREFIX)}
    if not masks:
        raise UserError(f"{path} holds no masks: give the masks.safetensors of a finished run")
    return masks


def overlap(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> tuple[int, int]:
    """Return how many weights both masks keep, and how many either keeps; IoU is their ratio.

    Args:
        first: A mask.
        second: Another of the same shape.
    """
    return int((first & second).sum()), int((first | second).sum())


def _check(tensors: dict[str, NDArray[Any]], stored: dict[str, str]) -> None:
    """Refuse a file that is not as it was written; those of other programs carry no hashes."""
    facts = stored.get("vpns", "{}")
    if stored.get("vpns_sha256", digest := text_hash(facts)) != digest:
        raise ValueError("its facts have another hash than when they were written")
    about = json.loads(facts)
    if not isinstance(about, dict):
        raise ValueError("its facts are no mapping")
    digest = arrays_hash(tensors)
    if about.get("tensors_sha256", digest) != digest:
        raise ValueError("its tensors have another hash than when they were written")
    for name, tensor in tensors.items():
        if name.startswith(PREFIX) and tensor.dtype != np.bool_:
            raise ValueError(f"{name} is {tensor.dtype}, not bool")


def arrays_hash(tensors: dict[str, NDArray[Any]]) -> str:
    """Return what ``sparsity.masks.tensors_hash`` makes of the same tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}:torch.{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
