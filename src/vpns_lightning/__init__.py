"""Visual prompts and weight masks, learned together and compared fairly.

The names below are loaded on first use, so that ``vpns --version`` need not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vpns_lightning._version import __version__

if TYPE_CHECKING:
    from vpns_lightning.base.errors import UserError
    from vpns_lightning.data import (
        CIFAR10,
        CIFAR100,
        DTD,
        CSVImages,
        Digits,
        Flowers102,
        Food101,
        ImageData,
        ImageFolder,
        ImageNet,
        Layout,
        OxfordPets,
        Split,
        StanfordCars,
        TinyImageNet,
        from_datasets,
    )
    from vpns_lightning.exporting import export
    from vpns_lightning.network import (
        ExpansivePrompt,
        FixPrompt,
        FrequencyMapping,
        IdentityMapping,
        IterativeMapping,
        LabelMapping,
        LinearHead,
        LowRankPrompt,
        PadPrompt,
        Prompt,
        PromptedClassifier,
        RandomMapping,
        RandomPrompt,
    )
    from vpns_lightning.pruners import (
        LTH,
        OMP,
        SNIP,
        BiP,
        DataSaliency,
        Dense,
        DepGraph,
        GradualMagnitude,
        GraSP,
        Hydra,
        LearnedScores,
        Pruner,
        Random,
        RigL,
        Saliency,
        Slim,
        Stored,
        Structured,
        StructuredVPNs,
        SynFlow,
        Wanda,
    )
    from vpns_lightning.report.frames import masks, results
    from vpns_lightning.runs.loading import load
    from vpns_lightning.stages import (
        EMA,
        SWA,
        InSequence,
        MaskFinding,
        PromptTuning,
        SubnetworkTuning,
        WarmupCosine,
    )
    from vpns_lightning.training.pipeline import fit_stages

_HOMES = {
    "data": (
        "CIFAR10",
        "CIFAR100",
        "TinyImageNet",
        "ImageNet",
        "Flowers102",
        "DTD",
        "Food101",
        "OxfordPets",
        "StanfordCars",
        "ImageFolder",
        "CSVImages",
        "from_datasets",
        "Digits",
        "ImageData",
        "Split",
        "Layout",
    ),
    "network": (
        "PromptedClassifier",
        "PadPrompt",
        "FixPrompt",
        "RandomPrompt",
        "ExpansivePrompt",
        "LowRankPrompt",
        "Prompt",
        "FrequencyMapping",
        "IterativeMapping",
        "RandomMapping",
        "IdentityMapping",
        "LinearHead",
        "LabelMapping",
    ),
    "pruners": (
        "Hydra",
        "Random",
        "OMP",
        "SNIP",
        "GraSP",
        "SynFlow",
        "Wanda",
        "LTH",
        "BiP",
        "GradualMagnitude",
        "RigL",
        "StructuredVPNs",
        "Slim",
        "DepGraph",
        "Stored",
        "Dense",
        "LearnedScores",
        "Saliency",
        "DataSaliency",
        "Structured",
        "Pruner",
    ),
    "stages": (
        "MaskFinding",
        "SubnetworkTuning",
        "PromptTuning",
        "WarmupCosine",
        "InSequence",
        "EMA",
        "SWA",
    ),
    "training.pipeline": ("fit_stages",),
    "runs.loading": ("load",),
    "report.frames": ("results", "masks"),
    "exporting": ("export",),
    "base.errors": ("UserError",),
}
_HOME_OF = {name: room for room, names in _HOMES.items() for name in names}

__all__ = [  # noqa: RUF022  # in the order a reader meets them
    "__version__",
    "CIFAR10",
    "CIFAR100",
    "TinyImageNet",
    "ImageNet",
    "Flowers102",
    "DTD",
    "Food101",
    "OxfordPets",
    "StanfordCars",
    "ImageFolder",
    "CSVImages",
    "from_datasets",
    "Digits",
    "ImageData",
    "Split",
    "Layout",
    "PromptedClassifier",
    "PadPrompt",
    "FixPrompt",
    "RandomPrompt",
    "ExpansivePrompt",
    "LowRankPrompt",
    "Prompt",
    "FrequencyMapping",
    "IterativeMapping",
    "RandomMapping",
    "IdentityMapping",
    "LinearHead",
    "LabelMapping",
    "Hydra",
    "Random",
    "OMP",
    "SNIP",
    "GraSP",
    "SynFlow",
    "Wanda",
    "LTH",
    "BiP",
    "Stored",
    "GradualMagnitude",
    "RigL",
    "StructuredVPNs",
    "Slim",
    "DepGraph",
    "Dense",
    "LearnedScores",
    "Saliency",
    "DataSaliency",
    "Structured",
    "Pruner",
    "MaskFinding",
    "SubnetworkTuning",
    "PromptTuning",
    "WarmupCosine",
    "InSequence",
    "EMA",
    "SWA",
    "fit_stages",
    "load",
    "results",
    "masks",
    "export",
    "UserError",
]


def __getattr__(name: str) -> Any:  # any public name
    """Return a public name from its room, importing that on first use."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
