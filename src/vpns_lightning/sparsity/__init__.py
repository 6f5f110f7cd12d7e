"""Masks, thresholds and exact selection: tensors only, no training loop."""

from vpns_lightning.sparsity.attention import (
    CalledAttention,
    attention_projections,
    can_be_called,
)
from vpns_lightning.sparsity.channel_selection import ChannelScope, keep_channels
from vpns_lightning.sparsity.gates import (
    Gated,
    gate_layer,
    gated_layers,
    get_gates,
    open_gates,
)
from vpns_lightning.sparsity.layers import (
    MaskedConv2d,
    MaskedLayer,
    MaskedLinear,
    bake,
    mask_layers,
    masked_layers,
    replace_module,
    unbake,
    unmask_layers,
)
from vpns_lightning.sparsity.levels import (
    Scope,
    check_sparsity,
    layer_levels,
    ranked_together,
)
from vpns_lightning.sparsity.masks import (
    SparsityReport,
    get_masks,
    names_hash,
    set_masks,
    sparsity_report,
    tensors_hash,
)
from vpns_lightning.sparsity.packing import pack, unpack
from vpns_lightning.sparsity.straight_through import Masked, MaskedGradient, StraightThrough
from vpns_lightning.sparsity.topk import (
    TieRule,
    check_scores,
    comparable,
    keep_highest,
    kth_smallest,
    prune_count,
    select,
)

__all__ = [
    "CalledAttention",
    "ChannelScope",
    "Gated",
    "Masked",
    "MaskedConv2d",
    "MaskedGradient",
    "MaskedLayer",
    "MaskedLinear",
    "Scope",
    "SparsityReport",
    "StraightThrough",
    "TieRule",
    "attention_projections",
    "bake",
    "can_be_called",
    "check_scores",
    "check_sparsity",
    "comparable",
    "gate_layer",
    "gated_layers",
    "get_gates",
    "get_masks",
    "keep_channels",
    "keep_highest",
    "kth_smallest",
    "layer_levels",
    "mask_layers",
    "masked_layers",
    "names_hash",
    "open_gates",
    "pack",
    "prune_count",
    "ranked_together",
    "replace_module",
    "select",
    "set_masks",
    "sparsity_report",
    "tensors_hash",
    "unbake",
    "unmask_layers",
    "unpack",
]
