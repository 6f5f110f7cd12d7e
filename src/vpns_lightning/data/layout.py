"""Where a data set lies on disk, and what to say where it does not."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

from vpns_lightning.data.folders import holds, is_hidden

ARCHIVES = (".zip", ".gz", ".tgz", ".tar")
SHOWN_WAYS = 1  # besides the official one
SEARCHED = 20  # folders at most, in each
# what the folders of many data sets hold: these names alone tell none of them
COMMON = {"train", "val", "valid", "validation", "test", "meta", "images", "labels"}
TESTS = {"test", "val", "valid", "validation"}
DIGITS = 10  # numbered folders, which are those of written digits
Ways: TypeAlias = tuple[tuple[str, ...], ...]


class Found(NamedTuple):
    """A data set on disk.

    Attributes:
        folder: What its paths are relative to.
        paths: Its files and folders, in the order in which the layout names them.
        official: Whether it lies as its makers distribute it.
    """

    folder: Path
    paths: tuple[Path, ...]
    official: bool


@dataclass(frozen=True)
class Layout:
    """The files a data set consists of.

    Attributes:
        needed: Files and folders that must exist.
        url: Where the data set comes from.
        downloadable: Whether ``ImageData.fetch`` can download it.
        alternatives: Other sets of files and folders that do as well.
        places: Folders below the root, any of which they may lie in, the official one first; ``*``
            is the root's only folder. An official one that has a name is also looked for in every
            folder below the root, and so is what lies in it, where its names tell the data set.
        numbered: Names of folders in which others distribute it, its classes numbered.
    """

    needed: tuple[str, ...]
    url: str = ""
    downloadable: bool = False
    alternatives: Ways = ()
    places: tuple[str, ...] = ("",)
    numbered: tuple[str, ...] = ()

    def find(self, root: Path) -> Found | None:
        """Return where the data set lies under ``root``, looking at the official place first.

        Of several sets of files that are in one place it is that with the deepest paths.
        """
        there = _Looking()
        for folder, is_named in self._candidates(root):
            ways = self._ways if is_named or folder == root else self._telling
            whole = [way for way in ways if all(there(folder / path) for path in way)]
            if whole:
                way = max(whole, key=lambda way: sum(path.count("/") for path in way))
                paths = tuple(folder / path for path in way)
                official = (folder, way) == (root / self.places[0], self.needed)
                return Found(folder, paths, official)
        return None

    def missing(self, root: Path) -> tuple[str, ...]:
        """Return what is missing under ``root`` of what most is there of; nothing if all is."""
        return () if self.find(root) else self._nearest(root)[0]

    def begun(self, root: Path, num_classes: int = 0) -> bool:
        """Return whether something of the data set is there, which a download would lie beside.

        Args:
            root: Folder given by the user.
            num_classes: Of the data set; as many folders of training images that are numbered are
                taken for its classes.
        """
        places = {place for place in self.places if place not in {"", "*"}}
        if self.places[0]:
            places |= {f"{folder.name}/{self.places[0]}" for folder in _folders(root)[:SEARCHED]}
        if self._is_itself(root):
            places |= {path.partition("/")[0] for way in self._ways for path in way}
        if self._nearest(root)[1] or any(_has_content(root / place) for place in places):
            return True
        return any(
            _is_numbered(folder / "train", num_classes, some_do=folder.name in self.numbered)
            for folder in _sorted_images(root)
        )

    def refusal(self, root: Path) -> str:
        """Return what was expected and what is there instead, and what to do."""
        missing, _ = self._nearest(root)
        return (
            f"{', '.join(missing)} not found, {holds((root / missing[0]).parent)}; "
            f"{self.remedy(root)}{self._elsewhere(root)}"
        )

    def remedy(self, root: Path) -> str:
        """Return what the user can do to complete the data set."""
        others = {frozenset(map(_name, way)): way for way in self.alternatives[::-1]}
        others.pop(frozenset(map(_name, self.needed)), None)
        ways = [self.needed, *list(others.values())[::-1][:SHOWN_WAYS]]
        named = [", ".join(_below(self.places[0], path) for path in way) for way in ways]
        by_hand = f"fill {root.absolute()} with {'; or '.join(named)}"
        origin = f" from {self.url}" if self.url else ""
        if self.downloadable:
            return f"{by_hand}{origin}, or delete its folder and use --data.download true"
        return f"{by_hand}{origin}; it cannot be downloaded automatically"

    @property
    def official(self) -> tuple[str, ...]:
        """What must exist, as paths relative to the root."""
        return tuple(_below(self.places[0], path) for path in self.needed)

    @property
    def _ways(self) -> Ways:
        return (self.needed, *self.alternatives)

    @property
    def _telling(self) -> Ways:
        return tuple(way for way in self._ways if not {_name(path) for path in way} <= COMMON)

    def _candidates(self, root: Path) -> Iterator[tuple[Path, bool]]:
        """Yield folders to look in, and whether their names are those of the data set."""
        for place in self.places:
            folder = _place(root, place)
            if folder is not None:
                yield folder, bool(place) or self._is_itself(root)
        if self.places[0]:
            for folder in _folders(root)[:SEARCHED]:
                yield folder / self.places[0], True
                yield folder, False

    def _is_itself(self, root: Path) -> bool:
        """Return whether the root was given as the data set's own folder."""
        return root.absolute().name == self.places[0].partition("/")[0] or not self.places[0]

    def _nearest(self, root: Path) -> tuple[tuple[str, ...], int]:
        """Return what is missing of the set of files most of which is there, and how many are.

        Where the folder has no name of the data set, it is more than half of them or none.
        """
        there = _Looking()
        best: tuple[tuple[str, ...], int] = (self.official, 0)
        for folder, is_named in self._candidates(root):
            for way in self._ways if is_named else self._telling:
                absent = [path for path in way if not there(folder / path)]
                count = len(way) - len(absent)
                if count > best[1] and (is_named or count > len(way) / 2):
                    relative = folder.relative_to(root).as_posix()
                    best = (tuple(_below(relative, path) for path in absent), count)
        return best

    def _elsewhere(self, root: Path) -> str:
        """Return a hint where folders of training and test images lie that are no published set."""
        folder = next(_sorted_images(root), None)
        if folder is None:
            return ""
        beside = "; another --data.root downloads the published images" if self.downloadable else ""
        return (
            f"{beside}; the images in {folder.absolute()} can be used as they are sorted there, by "
            f"--data ImageFolder --data.root {shlex.quote(str(folder))}"
        )


def either(*choices: str | tuple[str, ...]) -> Ways:
    """Return all sets of paths with one of each choice; the first has the first of each."""
    options = [(choice,) if isinstance(choice, str) else choice for choice in choices]
    return tuple(itertools.product(*options))


class _Looking(dict[Path, bool]):
    """Whether paths exist, each asked for once."""

    def __call__(self, path: Path) -> bool:
        return self[path]

    def __missing__(self, path: Path) -> bool:
        self[path] = path.exists()
        return self[path]


def _place(root: Path, place: str) -> Path | None:
    if place != "*":
        return root / place
    folders = _folders(root)
    return folders[0] if len(folders) == 1 else None


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_dir() and not is_hidden(p.name))


def _has_content(path: Path) -> bool:
    """Return whether anything is there but archives, from which a folder may yet be filled."""
    if not path.is_dir():
        return path.exists()
    names = [p.name for p in path.iterdir() if not is_hidden(p.name)]
    return any(not name.endswith(ARCHIVES) for name in names)


def _sorted_images(root: Path) -> Iterator[Path]:
    """Yield folders at most two below the root that have one of training and one of test images."""
    near = [root, *_folders(root)[:SEARCHED]]
    near += [below for folder in near[1:] for below in _folders(folder)[:SEARCHED]]
    for folder in near:
        names = {path.name.lower() for path in _folders(folder)}
        if "train" in names and names & TESTS:
            yield folder


def _is_numbered(folder: Path, count: int, *, some_do: bool) -> bool:
    """Return whether a folder holds those of so many classes, numbered from 0 or 1."""
    names = {path.name.lstrip("0") or "0" for path in _folders(folder)}
    numbers = [{str(first + index) for index in range(count)} for first in (0, 1)]
    if some_do:
        return bool(names) and any(names <= each for each in numbers)
    return count > DIGITS and names in numbers


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _below(place: str, path: str) -> str:
    return path if place in {"", "."} else f"{place}/{path}"
