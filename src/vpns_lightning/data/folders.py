"""Image files in folders: which are read, which are left out, and what is refused."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from vpns_lightning.base.errors import UserError
from vpns_lightning.data.split import Paths, Split

# what Pillow decodes without another program; animated ones give their first frame
IMAGE_SUFFIXES = frozenset(IMG_EXTENSIONS) | {".gif", ".jfif", ".jpe", ".avif", ".jp2", ".tga"}
SHOWN = 3


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is an editor's, a notebook's or a file manager's own."""
    return name.startswith(".") or name == "__MACOSX"


def is_image(name: str) -> bool:
    """Return whether a file's name is that of an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


@dataclass
class Found:
    """What lies in a folder and below.

    Attributes:
        images: Image files, folder by folder in the order of their names.
        hidden: Hidden files and folders, left out.
        others: Files of other kinds, left out.
    """

    images: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def scan(folder: Path) -> Found:
    """Return the files in a folder and below; links are followed.

    Raises:
        UserError: A link leads back to a folder that it lies in.
    """
    found = Found()
    folders: dict[str, list[str]] = {}
    # each with the real folders in which links were followed to it
    pending: list[tuple[str, tuple[Path, ...]]] = [(str(folder), ())]
    while pending:
        place, trail = pending.pop()
        folders[place] = []
        with os.scandir(place) as entries:
            for entry in entries:
                if is_hidden(entry.name):
                    found.hidden.append(entry.path)
                elif entry.is_dir():
                    followed = _followed(entry.path, trail) if entry.is_symlink() else trail
                    pending.append((entry.path, followed))
                elif is_image(entry.name):
                    folders[place].append(entry.name)
                else:
                    found.others.append(entry.path)
    for place in sorted(folders):
        found.images += [os.path.join(place, name) for name in sorted(folders[place])]
    return found


def _followed(link: str, trail: tuple[Path, ...]) -> tuple[Path, ...]:
    """Return the trail behind a link, which must not lead back to where it begins."""
    target = Path(os.path.realpath(link))
    longer = (*trail, Path(os.path.realpath(os.path.dirname(link))))
    if any(target == place or target in place.parents for place in longer):
        raise UserError(f"the link {link} leads back to {target}, which it lies in: remove it")
    return longer


def class_folders(folder: Path) -> list[str]:
    """Return the names of the class folders in ``folder``, sorted; hidden ones are none.

    Raises:
        UserError: There is no such folder, or none in it.
    """
    names: list[str] = []
    if folder.is_dir():
        with os.scandir(folder) as entries:
            names = sorted(e.name for e in entries if e.is_dir() and not is_hidden(e.name))
    if names:
        return names
    there = folder if folder.is_dir() else folder.parent
    raise UserError(
        f"no class folders in {folder.absolute()}; fill it with one folder of images for each "
        f"class, {folder.name}/<class>/<image> ({holds(there)})"
    )


def holds(folder: Path) -> str:
    """Return in a few words what lies in a folder."""
    if not folder.is_dir():
        return f"{folder.absolute()} does not exist"
    names = sorted(path.name for path in folder.iterdir() if not is_hidden(path.name))
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"{folder.absolute()} holds {', '.join(names[:8]) or 'nothing'}{more}"


def read_folders(folder: Path, class_names: Sequence[str]) -> Split:
    """Return the images in ``folder``/<class>/ and below, classes numbered as in ``class_names``.

    Raises:
        UserError: The class folders are not ``class_names``, one has no images, or a link leads
            back to where it lies.
    """
    found = class_folders(folder)
    if found != list(class_names):
        odd = sorted(set(found) ^ set(class_names))
        raise UserError(
            f"{folder.absolute()} has {len(found)} class folders, expected the {len(class_names)} "
            f"of the training images; they differ in {', '.join(odd[:5])}"
        )
    everything = Found()
    labels: list[int] = []
    for label, name in enumerate(class_names):
        here = scan(folder / name)
        if not here.images:
            raise UserError(
                f"{folder.absolute() / name} holds no image{_instead(here)}: fill this class, or "
                f"remove its folders from all parts"
            )
        labels += [label] * len(here.images)
        everything.images += here.images
        everything.hidden += here.hidden
        everything.others += here.others
    _look_beside(folder, everything)
    files = Paths(everything.images)
    return Split(labels, class_names, files, remarks=_left_out(folder, everything))


def _look_beside(folder: Path, found: Found) -> None:
    """Add what lies beside the class folders, where no image has a class."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_hidden(entry.name):
                found.hidden.append(entry.path)
            elif not entry.is_dir():
                found.others.append(entry.path)


def _instead(found: Found) -> str:
    return f", but {_kinds(found.others)}, which are not read" if found.others else ""


def _left_out(folder: Path, found: Found) -> list[str]:
    lines = []
    if found.hidden:
        lines.append(f"{_some(folder, found.hidden)}, hidden, are left out")
    if found.others:
        lines.append(f"{_kinds(found.others)} are left out: {_some(folder, found.others)}")
    return lines


def _kinds(files: Sequence[str]) -> str:
    counts = Counter(os.path.splitext(file)[1].lower() or "without suffix" for file in files)
    kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in counts.most_common(5))
    return f"files of other kinds ({kinds})"


def _some(folder: Path, files: Sequence[str]) -> str:
    names = [os.path.relpath(file, folder) for file in sorted(files)[:SHOWN]]
    more = f" and {len(files) - SHOWN:,} more" if len(files) > SHOWN else ""
    return f"{', '.join(names)}{more}"
