"""What a data set knows about its images before any file is decoded."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar, overload

import numpy as np
from PIL import Image

from vpns_lightning.data.images.decode import BadImageError, Pixels, as_rgb, decode

_CHUNK = 1000
_T = TypeVar("_T")


class Paths(Sequence[Path]):
    """Paths in one array: a million take tens of megabytes, which loader processes share.

    Objects would take several times as much, and be copied into every forked process, whose
    counting of references writes into their memory.

    Args:
        paths: The paths.
    """

    def __init__(self, paths: Iterable[Path | str]) -> None:
        names = [os.fsencode(path) for path in paths]
        extremes = [min(names), max(names)] if names else []
        # letters that all have in common, whether they are whole folders or not
        self._prefix = os.path.commonprefix(extremes) or b""  # noqa: RUF071
        ends = np.cumsum([len(name) - len(self._prefix) for name in names], dtype=np.int64)
        self._ends = np.concatenate([np.zeros(1, np.int64), ends])
        self._letters = np.frombuffer(
            b"".join(name[len(self._prefix) :] for name in names), dtype=np.uint8
        )

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> list[Path]: ...
    def __getitem__(self, index: int | slice) -> Path | list[Path]:
        """Return one path, or a list of some."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        letters = self._letters[self._ends[place] : self._ends[place + 1]].tobytes()
        return Path(os.fsdecode(self._prefix + letters))

    def __eq__(self, other: object) -> bool:
        """Return whether these are the same paths in the same order."""
        return isinstance(other, Sequence) and list(self) == list(other)

    def __hash__(self) -> int:
        return hash((self._prefix, len(self)))


class _Some(Sequence[Image.Image]):
    """Some images of a sequence."""

    def __init__(self, images: Sequence[Image.Image], rows: Sequence[int]) -> None:
        self.images = images
        self.rows = np.asarray(rows, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> _Some: ...
    def __getitem__(self, index: int | slice) -> Image.Image | _Some:
        """Return one image, or a sequence of some."""
        if isinstance(index, slice):
            return _Some(self.images, self.rows[index].tolist())
        return self.images[int(self.rows[index])]


@dataclass(frozen=True)
class Split:
    """The images of one split, in one of three forms, none of them decoded yet.

    Attributes:
        labels: Class index of each image, in [0, number of classes).
        class_names: One name for each class, in index order.
        files: One image file for each label; empty where the images are given otherwise.
        pixels: Images of shape (N, h, w, 3), values 0..255, in memory.
        images: A sequence that makes one PIL image at a time, of any size and mode. It is asked
            for the same image in several processes and threads, and must always give the same.
        exif_rotation: Whether images are turned as their EXIF data say; ``ImageData`` sets it.
        remarks: What a user should know of how the images were found, a line each.
    """

    labels: Sequence[int]
    class_names: Sequence[str]
    files: Sequence[Path] = ()
    pixels: Pixels | None = None
    images: Sequence[Image.Image] | None = None
    exif_rotation: bool = False
    remarks: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.files, Paths):
            object.__setattr__(self, "files", Paths(self.files))  # the dataclass is frozen

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def count(self) -> int:
        """Number of images, which should be that of labels."""
        for given in (self.pixels, self.images):
            if given is not None:
                return len(given)
        return len(self.files)

    def named(self, index: int) -> str:
        """Return how one image is called in a message."""
        return f"{self.files[index]}" if self.files else f"image {index}"

    def image(self, index: int) -> Image.Image:
        """Return one RGB image.

        Raises:
            BadImageError: It cannot be decoded.
        """
        if self.pixels is not None:
            return Image.fromarray(self.pixels[index])
        if self.images is not None:
            try:
                return as_rgb(self.images[index], exif_rotation=self.exif_rotation)
            except (OSError, ValueError, SyntaxError, MemoryError) as error:
                raise BadImageError(
                    f"image {index} cannot be read ({type(error).__name__}: {error}); continue "
                    f"without such images with on_bad_image='skip'"
                ) from error
        return decode(self.files[index], index, exif_rotation=self.exif_rotation)

    def take(self, rows: Sequence[int]) -> Split:
        """Return the images at some positions, in that order."""
        return replace(
            self,
            labels=[self.labels[row] for row in rows],
            files=[self.files[row] for row in rows] if self.files else (),
            pixels=None if self.pixels is None else self.pixels[list(rows)],
            images=None if self.images is None else _Some(self.images, rows),
        )

    @staticmethod
    def join(parts: Iterable[Split]) -> Split:
        """Return the file-based ``parts`` one after the other, as one split."""
        parts = list(parts)
        labels = [label for part in parts for label in part.labels]
        files = [file for part in parts for file in part.files]
        return Split(labels, parts[0].class_names, files)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the images: names, sizes and times of files, or pixels.

        It asks the file system once for each file, in threads, or makes every image once. It is
        computed once.
        """
        digest = hashlib.sha256()
        if self.pixels is not None:
            digest.update(repr(self.pixels.shape).encode())
            digest.update(np.ascontiguousarray(self.pixels).data)
        for line in _in_threads(_describe, self.files):
            digest.update(line)
        if self.images is not None:
            for line in _in_threads(self._hashed, range(len(self))):
                digest.update(line)
        return digest.hexdigest()

    def _hashed(self, row: int) -> bytes:
        try:
            image = self.image(row)
        except BadImageError:
            return b"bad"
        return hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest()

    @property
    def known_fingerprint(self) -> str | None:
        """The fingerprint, if it has been computed."""
        known: str | None = self.__dict__.get("fingerprint")
        return known

    def tell_fingerprint(self, fingerprint: str) -> None:
        """Take a fingerprint that another process has computed."""
        self.__dict__["fingerprint"] = fingerprint


def _in_threads(describe: Callable[[_T], bytes], things: Sequence[_T]) -> Iterator[bytes]:
    """Yield what is said of all things, in their order."""

    def some(start: int) -> bytes:
        return b"".join(map(describe, things[start : start + _CHUNK]))

    # what takes time is a server's answer, or decoding
    with ThreadPoolExecutor(16) as pool:
        yield from pool.map(some, range(0, len(things), _CHUNK))


def _describe(file: Path) -> bytes:
    try:
        about = file.stat()
        facts = f"{about.st_size} {about.st_mtime_ns}"
    except OSError:
        facts = "absent"
    return os.fsencode(f"{file.parent.name}/{file.name} {facts}\n")
