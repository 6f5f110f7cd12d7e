"""Whose code a config may name: this project's and its libraries', and what the user named."""

import sys
from types import ModuleType

TRUSTED_PACKAGES = ("vpns_lightning", "torch", "torchvision", "lightning", "pytorch_lightning")
_named: set[str] = set()


def trust(package: str) -> None:
    """Let configs name classes and functions of a package that the user named."""
    _named.add(package)


def is_trusted(package: str) -> bool:
    """Return whether configs may name classes of a package."""
    return package in _named or package in TRUSTED_PACKAGES


def is_plugin(package: str) -> bool:
    """Return whether the user named a package."""
    return package in _named


def plugin_modules() -> list[ModuleType]:
    """Return the imported modules of all packages that the user named, those at the top first."""
    names = [name for name in sys.modules if is_plugin(name.partition(".")[0])]
    return [sys.modules[name] for name in sorted(names, key=lambda name: name.count("."))]
