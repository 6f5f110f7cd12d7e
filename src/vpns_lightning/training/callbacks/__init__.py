"""Callbacks: hand-off, checkpoints, monitoring, progress, and stopping well."""

from vpns_lightning.training.callbacks.checkpointing import AtomicCheckpointIO, EpochCheckpoint
from vpns_lightning.training.callbacks.hand_off import (
    FreezeMasks,
    StageClock,
    callbacks_of,
    freeze,
    hand_on,
)
from vpns_lightning.training.callbacks.monitor import SparsityMonitor
from vpns_lightning.training.callbacks.processes import CountProcesses, check_processes
from vpns_lightning.training.callbacks.progress import StageProgress
from vpns_lightning.training.callbacks.prompts import KeepPrompts
from vpns_lightning.training.callbacks.signals import SignalGuard

__all__ = [
    "AtomicCheckpointIO",
    "CountProcesses",
    "EpochCheckpoint",
    "FreezeMasks",
    "KeepPrompts",
    "SignalGuard",
    "SparsityMonitor",
    "StageClock",
    "StageProgress",
    "callbacks_of",
    "check_processes",
    "freeze",
    "hand_on",
]
