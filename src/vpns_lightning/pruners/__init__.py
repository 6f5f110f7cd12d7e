"""Pruners: which weights survive. One file a method; no Trainer and no config."""

from vpns_lightning.pruners.base import Pruner
from vpns_lightning.pruners.bip import BiP
from vpns_lightning.pruners.data_saliency import DataSaliency
from vpns_lightning.pruners.dense import Dense
from vpns_lightning.pruners.depgraph import DepGraph
from vpns_lightning.pruners.gradual import GradualMagnitude
from vpns_lightning.pruners.grasp import GraSP
from vpns_lightning.pruners.hydra import Hydra
from vpns_lightning.pruners.learned_scores import LearnedScores
from vpns_lightning.pruners.lth import LTH
from vpns_lightning.pruners.omp import OMP
from vpns_lightning.pruners.random import Random
from vpns_lightning.pruners.rigl import RigL
from vpns_lightning.pruners.saliency import Saliency
from vpns_lightning.pruners.slim import Slim
from vpns_lightning.pruners.snip import SNIP
from vpns_lightning.pruners.stored import Stored
from vpns_lightning.pruners.structured import Structured
from vpns_lightning.pruners.structured_vpns import StructuredVPNs
from vpns_lightning.pruners.synflow import SynFlow
from vpns_lightning.pruners.wanda import Wanda

__all__ = [
    "LTH",
    "OMP",
    "SNIP",
    "BiP",
    "DataSaliency",
    "Dense",
    "DepGraph",
    "GraSP",
    "GradualMagnitude",
    "Hydra",
    "LearnedScores",
    "Pruner",
    "Random",
    "RigL",
    "Saliency",
    "Slim",
    "Stored",
    "Structured",
    "StructuredVPNs",
    "SynFlow",
    "Wanda",
]
