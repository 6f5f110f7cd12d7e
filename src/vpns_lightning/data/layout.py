"""Where a data set lies on disk, and errors that say which folder to fill with what."""

from __future__ import annotations

import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

from vpns_lightning.base.errors import UserError
from vpns_lightning.data.split import Split

_DAMAGE = (
    OSError,
    RuntimeError,
    ValueError,
    LookupError,
    EOFError,
    TypeError,
    AttributeError,
    pickle.UnpicklingError,
    tarfile.TarError,
    zipfile.BadZipFile,
)


@dataclass(frozen=True)
class Layout:
    """The files a data set consists of.

    Attributes:
        needed: Files and folders under the root that must exist.
        url: Where the data set comes from.
        downloadable: Whether ``ImageData.fetch`` can download it.
        alternatives: Other sets of files and folders that do as well.
    """

    needed: tuple[str, ...]
    url: str = ""
    downloadable: bool = False
    alternatives: tuple[tuple[str, ...], ...] = ()

    def missing(self, root: Path) -> tuple[str, ...]:
        """Return what is missing under ``root``, nothing if any alternative is there."""
        absent = [
            tuple(path for path in paths if not (root / path).exists())
            for paths in (self.needed, *self.alternatives)
        ]
        return () if () in absent else absent[0]

    def remedy(self, root: Path) -> str:
        """Return what the user can do to complete the data set."""
        ways = [", ".join(paths) for paths in (self.needed, *self.alternatives)]
        by_hand = f"fill {root.absolute()} with {'; or '.join(ways)}"
        origin = f" from {self.url}" if self.url else ""
        if self.downloadable:
            return f"{by_hand}{origin}, or delete its folder and use --data.download true"
        return f"{by_hand}{origin}; it cannot be downloaded automatically"


@contextmanager
def reading(name: str, root: Path, layout: Layout) -> Iterator[None]:
    """Turn whatever a reader raises into a ``UserError`` about the data set's files.

    Args:
        name: Data set.
        root: Folder given by the user.
        layout: What should be there.

    Raises:
        UserError: A file is missing or damaged.
    """
    missing = layout.missing(root)
    if missing:
        raise UserError(
            f"{name} is not complete in {root.absolute()}: {', '.join(missing)} not found; "
            f"{layout.remedy(root)}"
        )
    try:
        yield
    except UserError:
        raise
    except _DAMAGE as error:
        raise UserError(
            f"{name} in {root.absolute()} cannot be read ({type(error).__name__}: {error}): it is "
            f"damaged or half-extracted; {layout.remedy(root)}"
        ) from error


def obtain(fetch: Callable[[], None], name: str, root: Path, layout: Layout) -> None:
    """Download a data set.

    Args:
        fetch: Downloads and extracts.
        name: Data set.
        root: Folder given by the user.
        layout: What should be there afterwards.

    Raises:
        UserError: The download failed.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        fetch()
    except _DAMAGE as error:
        raise UserError(
            f"{name} could not be downloaded from {layout.url} "
            f"({type(error).__name__}: {error}); without network, {layout.remedy(root)}"
        ) from error


def class_folders(folder: Path) -> list[str]:
    """Return the names of the class folders in ``folder``, sorted.

    Raises:
        UserError: There is no such folder, or none in it.
    """
    try:
        return list(find_classes(folder)[0])
    except OSError as error:
        raise UserError(
            f"no class folders in {folder.absolute()}; fill it with one folder of images for each "
            f"class, {folder.name}/<class>/<image>"
        ) from error


def read_folders(folder: Path, class_names: list[str]) -> Split:
    """Return the images in ``folder``/<class>/, classes numbered as in ``class_names``.

    Raises:
        UserError: The class folders are not ``class_names``.
    """
    found = class_folders(folder)
    if found != class_names:
        odd = sorted(set(found) ^ set(class_names))
        raise UserError(
            f"{folder.absolute()} has {len(found)} class folders, expected the {len(class_names)} "
            f"of the training images; they differ in {', '.join(odd[:5])}"
        )
    index = {name: label for label, name in enumerate(class_names)}
    samples = make_dataset(folder, index, extensions=IMG_EXTENSIONS, allow_empty=True)
    return Split([label for _, label in samples], class_names, [Path(path) for path, _ in samples])
