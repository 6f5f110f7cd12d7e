"""The classes that keys of a config name, and the arguments they take."""

import inspect
import sys
from collections import abc
from collections.abc import Sequence
from typing import Any, get_type_hints

from lightning.fabric.plugins import CheckpointIO, ClusterEnvironment
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import LayerSync, Precision
from lightning.pytorch.profilers import Profiler
from torch.nn.modules.loss import _Loss
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vpns_lightning.base.trust import REFUSED
from vpns_lightning.data import ImageData
from vpns_lightning.network import LabelMapping, Prompt
from vpns_lightning.pruners import Pruner
from vpns_lightning.stages.averaging import WeightAverage

# the last part of a key that names a class, and what the class must be one of
CLASSES: dict[str, tuple[type, ...]] = {
    "data": (ImageData,),
    "pruner": (Pruner,),
    "prompt": (Prompt,),
    "mapping": (LabelMapping,),
    "optimizer": (Optimizer,),
    "lr_scheduler": (LRScheduler,),
    "loss": (_Loss,),
    "average": (WeightAverage,),
    "logger": (Logger,),
    "callbacks": (Callback,),
    "profiler": (Profiler,),
    "plugins": (Precision, ClusterEnvironment, CheckpointIO, LayerSync),
}
SOURCES = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def classes(bases: Sequence[type[Any]]) -> dict[str, type]:
    """Return the concrete subclasses of ``bases`` that are imported, by the names configs use."""
    found: dict[str, type] = {}
    for base in bases:
        found |= classes(base.__subclasses__())
        for child in base.__subclasses__():
            if not inspect.isabstract(child) and not child.__name__.startswith("_"):
                found[child.__name__] = child
    return found


def offered(bases: Sequence[type[Any]]) -> dict[str, type]:
    """Return those of :func:`classes` that a user would name.

    Of the parts of a Trainer, which this project has for itself alone, they are what Lightning
    exports, and what plug-ins bring.
    """
    found = classes(bases)
    if not bases[0].__module__.startswith("lightning."):
        return found
    return {name: cls for name, cls in found.items() if _is_part(cls)}


def _is_part(cls: type) -> bool:
    """Return whether Lightning exports a part of a Trainer that a config may name."""
    parts = cls.__module__.split(".")
    if parts[0] != "lightning":
        return parts[0] != "vpns_lightning"
    packages = [".".join(parts[:depth]) for depth in range(3, len(parts))]
    exporting = [p for p in packages if cls.__name__ in getattr(sys.modules[p], "__all__", ())]
    refused = any(f"{package}.{cls.__name__}" in REFUSED for package in packages)
    return bool(exporting) and not refused and not cls.__name__.startswith("Base")


def options_of(cls: type) -> dict[str, Any]:
    """Return the arguments of a class with their annotations, those it passes on included."""
    options: dict[str, Any] = {}
    for owner in cls.__mro__:
        own = inspect.signature(owner).parameters if "__init__" in vars(owner) else {}
        hints = _hints(owner) if own else {}
        options = {
            name: hints.get(name, Any)
            for name, parameter in own.items()
            if parameter.kind not in SOURCES
        } | options
        passes_on = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in own.values())
        if own and not passes_on:
            break
    return options


def required(cls: type) -> set[str]:
    """Return the arguments that a class has no default for, but for what a stage hands it."""
    return {
        name
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.default is inspect.Parameter.empty and parameter.kind not in SOURCES
    } - handed_to(cls)


def handed_to(cls: type) -> set[str]:
    """Return the arguments that a stage hands a class."""
    handed = {Optimizer: "params", LRScheduler: "optimizer"}
    return {name for base, name in handed.items() if issubclass(cls, base)}


def _hints(cls: type) -> dict[str, Any]:
    # some are imported for the type checker alone, mostly these
    names = {name: getattr(abc, name) for name in abc.__all__}
    try:
        return get_type_hints(cls.__init__, localns=names)  # type: ignore[misc]  # of a class
    except (NameError, TypeError):
        return {}
