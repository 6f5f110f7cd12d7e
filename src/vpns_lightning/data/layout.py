"""Where a data set lies on disk, and what to say where it does not."""

from __future__ import annotations

import itertools
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

from vpns_lightning.data.folders import holds, is_hidden

ARCHIVES = (".zip", ".gz", ".tgz", ".tar")
SHOWN_WAYS = 1  # besides the official one
SEARCHED = 20  # folders at most, in each
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
            is the root's only folder.
    """

    needed: tuple[str, ...]
    url: str = ""
    downloadable: bool = False
    alternatives: Ways = ()
    places: tuple[str, ...] = ("",)

    def find(self, root: Path) -> Found | None:
        """Return where the data set lies under ``root``, looking at the official place first.

        Of several sets of files that are in one place it is that with the deepest paths.
        """
        there = _Looking()
        for place in self.places:
            folder = _place(root, place)
            if folder is None:
                continue
            whole = [way for way in self._ways if all(there(folder / path) for path in way)]
            if whole:
                way = max(whole, key=lambda way: sum(path.count("/") for path in way))
                paths = tuple(folder / path for path in way)
                official = (place, way) == (self.places[0], self.needed)
                return Found(folder, paths, official)
        return None

    def missing(self, root: Path) -> tuple[str, ...]:
        """Return what is missing under ``root`` of what most is there of; nothing if all is."""
        return () if self.find(root) else self._nearest(root)[0]

    def begun(self, root: Path) -> bool:
        """Return whether something of the data set is there, which a download would lie beside."""
        places = {place for place in self.places if place not in {"", "*"}}
        if self._is_itself(root):
            places |= {path.partition("/")[0] for way in self._ways for path in way}
        return any(_has_content(root / place) for place in places)

    def refusal(self, root: Path) -> str:
        """Return what was expected and what is there instead, and what to do."""
        missing, _ = self._nearest(root)
        return (
            f"{', '.join(missing)} not found, {holds((root / missing[0]).parent)}; "
            f"{self.remedy(root)}{_elsewhere(root)}"
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

    def _is_itself(self, root: Path) -> bool:
        """Return whether the root was given as the data set's own folder."""
        return root.absolute().name == self.places[0].partition("/")[0] or not self.places[0]

    def _nearest(self, root: Path) -> tuple[tuple[str, ...], int]:
        """Return what is missing of the set of files most of which is there, and how many are."""
        there = _Looking()
        best: tuple[tuple[str, ...], int] = (self.official, 0)
        for place in self.places:
            folder = _place(root, place)
            # names such as train are those of many data sets
            if folder is None or not (place or self._is_itself(root)):
                continue
            for way in self._ways:
                absent = [path for path in way if not there(folder / path)]
                if len(way) - len(absent) > best[1]:
                    relative = folder.relative_to(root).as_posix()
                    missing = tuple(_below(relative, path) for path in absent)
                    best = (missing, len(way) - len(absent))
        return best


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


def _elsewhere(root: Path) -> str:
    """Return a hint where folders of training and test images lie that are no published set."""
    near = [root, *_folders(root)[:SEARCHED]]
    near += [below for folder in near[1:] for below in _folders(folder)[:SEARCHED]]
    for folder in near:
        names = {path.name.lower() for path in _folders(folder)}
        if "train" in names and names & {"test", "val", "valid", "validation"}:
            return (
                f"; the images in {folder.absolute()} can be used as they are sorted there, by "
                f"--data ImageFolder --data.root {shlex.quote(str(folder))}"
            )
    return ""


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _below(place: str, path: str) -> str:
    return path if place in {"", "."} else f"{place}/{path}"
