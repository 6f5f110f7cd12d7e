"""Every pruner of the package, found by itself, with the arguments that fit a toy network."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import timm
import torch
from torch import nn

import vpns_lightning as vpns
from reference.toy_networks import ToyNet, ToyViT
from vpns_lightning import pruners
from vpns_lightning.network import PromptedClassifier
from vpns_lightning.pruners import Pruner
from vpns_lightning.runs.handoff import save_masks
from vpns_lightning.sparsity import get_masks
from vpns_lightning.sparsity.masks import tensors_hash

Build = Callable[[float], Pruner]


def stored(
    sparsity: float, backbone: Callable[[], nn.Module] = lambda: ToyNet(classes=6)
) -> Pruner:
    """Return masks of a file, of a network whose head has 4 classes."""
    network = PromptedClassifier(backbone(), 4, mapping=vpns.RandomMapping())
    network.fit_mapping()
    omp = vpns.OMP()
    omp.attach(network, sparsity)
    omp.finish(network, sparsity)
    path = Path(mkdtemp()) / "masks.safetensors"
    save_masks(path, network, method="OMP")
    return vpns.Stored(str(path), inherit_prompt=False)


def timm_vit() -> nn.Module:
    """Return timm's vision transformer, 3,046 weights."""
    return seeded(
        "vit_tiny_patch16_224", img_size=14, patch_size=7, embed_dim=8, depth=2, num_heads=2
    )


def timm_mobile() -> nn.Module:
    """Return a network of depthwise convolutions, as timm builds it for its own tests."""
    return seeded("test_efficientnet")


def seeded(name: str, **options: int) -> nn.Module:
    """Return a network of timm with 10 classes and the same weights every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made: nn.Module = timm.create_model(name, num_classes=10, **options)
    return made


# backbones of 10 classes for images of 14 px, besides the toy network of most tests
BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "vit": ToyViT,
    "timm vit": timm_vit,
    "timm mobile": timm_mobile,
}
# what the defaults do not fit: exactness everywhere, and a toy run of few iterations
ARGUMENTS: dict[str, dict[str, Any]] = {
    "LTH": {"snap": "clip"},
    "SynFlow": {"rounds": 5},
    "RigL": {"every": 1},
    "GradualMagnitude": {"every": 1},
}
BUILDS: dict[str, Build] = {"Stored": stored}


def subclasses(base: type[Pruner]) -> Iterator[type[Pruner]]:
    """Yield all concrete subclasses that the package defines."""
    for kind in base.__subclasses__():
        yield from subclasses(kind)
        if not getattr(kind, "__abstractmethods__", None) and kind.__module__.startswith("vpns_"):
            yield kind


def found() -> dict[str, Build]:
    """Return how to build every pruner, by class name."""
    for module in pkgutil.iter_modules(pruners.__path__, f"{pruners.__name__}."):
        importlib.import_module(module.name)
    builds: dict[str, Build] = {}
    for kind in sorted(subclasses(Pruner), key=lambda kind: kind.__name__):
        default = lambda _, kind=kind: kind(**ARGUMENTS.get(kind.__name__, {}))  # noqa: E731
        builds[kind.__name__] = BUILDS.get(kind.__name__, default)
    return builds


PRUNERS_THAT_RANK = [n for n, build in found().items() if build(0.5).takes_levels]


def sparsity_of(name: str, sparsity: float) -> float:
    """Return what can be asked of a pruner: nothing is removed by Dense."""
    return 0.0 if name == "Dense" else sparsity


def state_hash(network: torch.nn.Module) -> str:
    """Return a hash of everything in a network."""
    return tensors_hash(network.state_dict().items())


def masks_hash(network: PromptedClassifier) -> str:
    """Return a hash of a network's masks."""
    return tensors_hash(get_masks(network.backbone).items())
