"""The network: prompt, normalisation, masked backbone and label mapping in one module."""

from vpns_lightning.network.backbones import build_backbone, head_of, num_outputs
from vpns_lightning.network.channel_graph import ChannelGroup
from vpns_lightning.network.channels import cut, find_groups
from vpns_lightning.network.classifier import PromptedClassifier
from vpns_lightning.network.cuts import Cuts
from vpns_lightning.network.mappings import (
    FrequencyMapping,
    IdentityMapping,
    IterativeMapping,
    LabelMapping,
    LinearHead,
    RandomMapping,
    greedy_assignment,
)
from vpns_lightning.network.prompt import Prompt, pad_to_canvas
from vpns_lightning.network.prompts import (
    ExpansivePrompt,
    FixPrompt,
    LowRankPrompt,
    PadPrompt,
    RandomPrompt,
)
from vpns_lightning.network.specification import Specification, classifier_names, specify

__all__ = [
    "ChannelGroup",
    "Cuts",
    "ExpansivePrompt",
    "FixPrompt",
    "FrequencyMapping",
    "IdentityMapping",
    "IterativeMapping",
    "LabelMapping",
    "LinearHead",
    "LowRankPrompt",
    "PadPrompt",
    "Prompt",
    "PromptedClassifier",
    "RandomMapping",
    "RandomPrompt",
    "Specification",
    "build_backbone",
    "classifier_names",
    "cut",
    "find_groups",
    "greedy_assignment",
    "head_of",
    "num_outputs",
    "pad_to_canvas",
    "specify",
]
