"""Checkpoints of the authors' released code: read, and turned into a network."""

from vpns_lightning.released.checking import check_sparsity_of, check_values, derived_sparsity
from vpns_lightning.released.converting import (
    PromptKind,
    masks_from,
    network_arguments,
    network_from,
)
from vpns_lightning.released.reading import Released, read_released

__all__ = [
    "PromptKind",
    "Released",
    "check_sparsity_of",
    "check_values",
    "derived_sparsity",
    "masks_from",
    "network_arguments",
    "network_from",
    "read_released",
]
