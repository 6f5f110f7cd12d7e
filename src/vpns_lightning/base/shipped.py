"""Configs that come with the package, found by name wherever a command is given."""

import os
from collections.abc import Iterable
from pathlib import Path

from vpns_lightning.base.errors import UserError, nearest

_PACKAGE = Path(__file__).parents[1]
SUFFIX = ".yaml"


def shipped_folder() -> Path:
    """Return the folder of the configs: in the package, or at the top of the clone it is in.

    Raises:
        UserError: They are in neither.
    """
    places = (_PACKAGE / "configs", _PACKAGE.parents[1] / "configs")
    for place in places:
        if place.is_dir():
            return place
    raise UserError(f"this installation has no configs, neither in {places[0]} nor in {places[1]}")


def shipped_names() -> list[str]:
    """Return the names of all configs, such as ``quickstart`` and ``pruner/omp``."""
    folder = shipped_folder()
    files = folder.rglob(f"*{SUFFIX}")
    return sorted(str(file.relative_to(folder).with_suffix("")) for file in files)


def config_file(given: str | Path, *, kind: str = "config file", below: str = "") -> Path:
    """Return the file that a config's path or name stands for.

    A file that exists wins. Else the name of a config that comes with the package will do:
    ``quickstart``, ``pruner/omp``, or as in a clone ``configs/pruner/omp.yaml``.

    Args:
        given: The path or name.
        kind: What it is, for the message.
        below: A folder of configs whose names may be given without it.

    Raises:
        UserError: There is neither such a file nor such a config.
    """
    path = Path(given)
    # of os, which says no of a name that is too long, where pathlib raises
    if os.path.isfile(path):
        return path
    wanted = str(path).removeprefix("configs/").removesuffix(SUFFIX)
    known = set() if path.is_absolute() else set(shipped_names())
    for name in (wanted, f"{below}/{wanted}"):
        if name in known:
            return shipped_folder() / f"{name}{SUFFIX}"
    # a folder is not the config that is meant, unless nothing else has its name
    if os.path.exists(path):
        return path
    if not known:
        raise UserError(f"{kind} {given} does not exist")
    raise UserError(
        f"{kind} {given} does not exist, and vpns has no config of this name"
        f"{nearest(wanted, known)}; it has {_listed(known, below)}; vpns configs says what they are"
    )


def _listed(names: Iterable[str], below: str) -> str:
    """Return the names in a folder, and what folders there are."""
    pairs = sorted((name.rpartition("/")[0], name) for name in names)
    here = [name for folder, name in pairs if folder == below]
    others = sorted({folder for folder, _ in pairs} - {below, ""})
    return ", ".join([*here, *(f"{folder}/..." for folder in others)])
