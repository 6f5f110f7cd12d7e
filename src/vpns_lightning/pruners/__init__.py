"""Pruners: which weights survive. One file a method; no Trainer and no config."""

from vpns_lightning.pruners.base import Pruner
from vpns_lightning.pruners.bip import BiP
from vpns_lightning.pruners.dense import Dense
from vpns_lightning.pruners.gradual import GradualMagnitude
from vpns_lightning.pruners.hydra import Hydra
from vpns_lightning.pruners.learned_scores import LearnedScores
from vpns_lightning.pruners.lth import LTH
from vpns_lightning.pruners.rigl import RigL
from vpns_lightning.pruners.stored import Stored

__all__ = [
    "LTH",
    "BiP",
    "Dense",
    "GradualMagnitude",
    "Hydra",
    "LearnedScores",
    "Pruner",
    "RigL",
    "Stored",
]
