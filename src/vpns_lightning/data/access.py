"""Reading and downloading a data set: whatever goes wrong, one line says what to do."""

from __future__ import annotations

import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vpns_lightning.base.errors import UserError
from vpns_lightning.data.layout import Found, Layout

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


def located(name: str, root: Path, layout: Layout) -> Found:
    """Return where a data set lies.

    Args:
        name: Data set.
        root: Folder given by the user.
        layout: What should be there.

    Raises:
        UserError: It is not there, or not all of it.
    """
    found = layout.find(root)
    if found is None:
        raise UserError(f"{name} is not complete in {root.absolute()}: {layout.refusal(root)}")
    return found


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
    located(name, root, layout)
    try:
        yield
    except UserError:
        raise
    except _DAMAGE as error:
        raise UserError(
            f"{name} in {root.absolute()} cannot be read ({type(error).__name__}: {error}): it is "
            f"damaged or half-extracted; {layout.remedy(root)}"
        ) from error


def obtain(
    fetch: Callable[[], None], name: str, root: Path, layout: Layout, num_classes: int
) -> None:
    """Download a data set, unless some of it is there already, complete or not.

    A download that was ended before it was complete is begun again.

    Args:
        fetch: Downloads and extracts.
        name: Data set.
        root: Folder given by the user.
        layout: What should be there afterwards.
        num_classes: Of the data set, by which folders of classes are recognised.

    Raises:
        UserError: The download failed.
    """
    unfinished = root / f".{name}.downloading"
    if not unfinished.exists() and (layout.find(root) or layout.begun(root, num_classes)):
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
        unfinished.touch()
        fetch()
        unfinished.unlink()
    except _DAMAGE as error:
        if not layout.begun(root):
            unfinished.unlink(missing_ok=True)
        filled = (
            f"; to use what is there as it is, delete {unfinished}" if layout.find(root) else ""
        )
        raise UserError(
            f"{name} could not be downloaded from {layout.url} "
            f"({type(error).__name__}: {error}); without network, {layout.remedy(root)}{filled}"
        ) from error
