"""Callbacks: hand-off, checkpoints, monitoring, progress, and stopping well."""

from vpns_lightning.callbacks.checkpointing import AtomicCheckpointIO, EpochCheckpoint
from vpns_lightning.callbacks.freeze_masks import (
    FreezeMasks,
    StageClock,
    callbacks_of,
    freeze,
    hand_on,
)
from vpns_lightning.callbacks.guards import (
    SignalGuard,
    StopRequest,
    check_precision,
    warn_of_slow_precision,
)
from vpns_lightning.callbacks.progress import StageProgress
from vpns_lightning.callbacks.sparsity_monitor import SparsityMonitor

__all__ = [
    "AtomicCheckpointIO",
    "EpochCheckpoint",
    "FreezeMasks",
    "SignalGuard",
    "SparsityMonitor",
    "StageClock",
    "StageProgress",
    "StopRequest",
    "callbacks_of",
    "check_precision",
    "freeze",
    "hand_on",
    "warn_of_slow_precision",
]
