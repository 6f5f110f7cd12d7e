"""Pruners: which weights survive. One file a method; no Trainer, no files, no config."""

from vpns_lightning.pruners.base import Pruner
from vpns_lightning.pruners.dense import Dense
from vpns_lightning.pruners.hydra import Hydra
from vpns_lightning.pruners.learned_scores import LearnedScores

__all__ = ["Dense", "Hydra", "LearnedScores", "Pruner"]
