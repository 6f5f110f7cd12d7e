"""The stages as LightningModules that share one network."""

from vpns_lightning.stages.averaging import EMA, SWA, WeightAverage
from vpns_lightning.stages.base import Stage
from vpns_lightning.stages.mask_finding import MaskFinding
from vpns_lightning.stages.prompt_tuning import PromptTuning
from vpns_lightning.stages.rehearsal import rehearse
from vpns_lightning.stages.schedules import InSequence, WarmupCosine
from vpns_lightning.stages.steps import VIEWS, refusing
from vpns_lightning.stages.subnetwork_tuning import SubnetworkTuning

# by the keys of a config, in their order; a stage of no epochs is left out, but for find and tune
STAGES: dict[str, type[Stage]] = {
    "warmup": SubnetworkTuning,
    "find": MaskFinding,
    "tune": SubnetworkTuning,
    "prompt_tuning": PromptTuning,
}

__all__ = [
    "EMA",
    "STAGES",
    "SWA",
    "VIEWS",
    "InSequence",
    "MaskFinding",
    "PromptTuning",
    "Stage",
    "SubnetworkTuning",
    "WarmupCosine",
    "WeightAverage",
    "refusing",
    "rehearse",
]
