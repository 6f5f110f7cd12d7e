"""Whose code a config may name: classes for their keys, of this project and of plug-ins.

The parser imports what a config names, wherever and however it is named: in a nested file, as text
in an option, as the ``config.yaml`` of a run. So the rule is the parser's own, checked right before
it imports a path, and again on the place where what it found is defined: everything is refused but
the packages of the classes that some key wants. That the class is one of the kind which its key
wants, the parser checks by the key's type; where a key has no type, nothing is built.
"""

import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from jsonargparse import set_parsing_settings

TRUSTED_PACKAGES = ("vpns_lightning", "torch", "torchvision", "lightning", "pytorch_lightning")
# where the classes are that keys of a config want: optimisers, schedules, and parts of a Trainer
ALLOWED = (
    *("torch.optim", "torch.distributed.algorithms.ddp_comm_hooks"),
    *(
        f"{lightning}.{part}"
        for lightning in ("lightning.pytorch", "pytorch_lightning", "lightning.fabric")
        for part in ("callbacks", "loggers", "strategies", "plugins", "profilers", "accelerators")
    ),
)
# classes whose arguments are functions to call: what they do would be up to the config
REFUSED = tuple(
    f"{lightning}.callbacks.{name}"
    for lightning in ("lightning.pytorch", "pytorch_lightning")
    for name in ("LambdaCallback", "lambda_function")
)
_named: set[str] = set()


def trust(package: str) -> None:
    """Let configs name classes and functions of a package that the user named."""
    _named.add(package)
    if package.isidentifier():  # no other can be imported by name
        set_parsing_settings(import_path_allowlist=[package])


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


def guard_parsing(bases: Iterable[type]) -> None:
    """Have parsers of this process import nothing but what a config may name.

    Args:
        bases: Classes of this project that a config names subclasses of. Subclasses that are
            imported already may be named, whoever wrote them: their code has run.
    """
    own = {path for base in bases for cls in _subclasses(base) for path in _paths(cls)}
    set_parsing_settings(
        import_path_denylist=["*", *REFUSED],
        import_path_allowlist=sorted({*ALLOWED, *own, *filter(str.isidentifier, _named)}),
        instantiate_subclass_spec_in_any=False,
    )


def _subclasses(base: type[Any]) -> set[type[Any]]:
    found = {base}
    for child in base.__subclasses__():
        found |= _subclasses(child)
    return found


def _paths(cls: type) -> Iterable[str]:
    """Return where a class is defined, and the packages above that show it."""
    package, *inner = cls.__module__.split(".")
    for depth in range(len(inner) + 1):
        module = ".".join([package, *inner[:depth]])
        if getattr(sys.modules.get(module), cls.__name__, None) is cls:
            yield f"{module}.{cls.__name__}"
