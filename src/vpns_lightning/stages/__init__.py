"""The stages as LightningModules that share one network."""

from vpns_lightning.stages.base import Stage
from vpns_lightning.stages.mask_finding import MaskFinding
from vpns_lightning.stages.prompt_tuning import PromptTuning
from vpns_lightning.stages.rehearsal import rehearse
from vpns_lightning.stages.steps import VIEWS, refusing
from vpns_lightning.stages.subnetwork_tuning import SubnetworkTuning

__all__ = [
    "VIEWS",
    "MaskFinding",
    "PromptTuning",
    "Stage",
    "SubnetworkTuning",
    "refusing",
    "rehearse",
]
