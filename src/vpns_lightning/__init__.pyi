"""Public names, by the room they are from; loaded on first use."""

from .base.errors import (
    UserError as UserError,
)
from .data import (
    CIFAR10 as CIFAR10,
    CIFAR100 as CIFAR100,
    DTD as DTD,
    CSVImages as CSVImages,
    Digits as Digits,
    Flowers102 as Flowers102,
    Food101 as Food101,
    ImageData as ImageData,
    ImageFolder as ImageFolder,
    ImageNet as ImageNet,
    Layout as Layout,
    OxfordPets as OxfordPets,
    Split as Split,
    StanfordCars as StanfordCars,
    TinyImageNet as TinyImageNet,
    from_datasets as from_datasets,
)
from .exporting import (
    export as export,
)
from .network import (
    ExpansivePrompt as ExpansivePrompt,
    FixPrompt as FixPrompt,
    FrequencyMapping as FrequencyMapping,
    IdentityMapping as IdentityMapping,
    IterativeMapping as IterativeMapping,
    LabelMapping as LabelMapping,
    LinearHead as LinearHead,
    LowRankPrompt as LowRankPrompt,
    PadPrompt as PadPrompt,
    Prompt as Prompt,
    PromptedClassifier as PromptedClassifier,
    RandomMapping as RandomMapping,
    RandomPrompt as RandomPrompt,
)
from .pruners import (
    LTH as LTH,
    OMP as OMP,
    SNIP as SNIP,
    BiP as BiP,
    DataSaliency as DataSaliency,
    Dense as Dense,
    DepGraph as DepGraph,
    GradualMagnitude as GradualMagnitude,
    GraSP as GraSP,
    Hydra as Hydra,
    LearnedScores as LearnedScores,
    Pruner as Pruner,
    Random as Random,
    RigL as RigL,
    Saliency as Saliency,
    Slim as Slim,
    Stored as Stored,
    Structured as Structured,
    StructuredVPNs as StructuredVPNs,
    SynFlow as SynFlow,
    Wanda as Wanda,
)
from .report.frames import (
    masks as masks,
    results as results,
)
from .runs.loading import (
    load as load,
)
from .stages import (
    EMA as EMA,
    SWA as SWA,
    InSequence as InSequence,
    MaskFinding as MaskFinding,
    PromptTuning as PromptTuning,
    SubnetworkTuning as SubnetworkTuning,
    WarmupCosine as WarmupCosine,
)
from .training.pipeline import (
    fit_stages as fit_stages,
)

__version__: str
