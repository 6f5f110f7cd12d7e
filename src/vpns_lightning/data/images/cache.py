"""Decode once: the images of a split as one uint8 array in a memory-mapped file.

A cache is two files, ``<key>.npy`` and the stamp ``<key>.json`` that is written after it. The key
holds the names and sizes of all image files, so an edited data set gets a new cache. Both files are
written under a temporary name, synced and renamed: a killed or a second builder does no harm.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import PIL
from rich.progress import track

from vpns_lightning.base.errors import UserError
from vpns_lightning.base.files import lock
from vpns_lightning.data.images.decode import (
    BadImageError,
    OnBadImage,
    Pixels,
    refuse_too_many_bad,
    resize,
)
from vpns_lightning.data.split import Split

_log = logging.getLogger(__name__)

_FORMAT = 1
_CHUNK = 256


class MixedSizesError(UserError):
    """The images of a split have several sizes, so they cannot be kept at their own size."""


def open_pixels(path: Path) -> Pixels:
    """Return the array of shape (N, h, w, 3) in ``path``, memory-mapped."""
    # copy-on-write: torch warns about tensors from read-only arrays
    return cast("Pixels", np.load(path, mmap_mode="c", allow_pickle=False))


def fingerprint(split: Split) -> str:
    """Return a hash of the images of a split: names and sizes of files, or the pixels."""
    digest = hashlib.sha256(f"{_FORMAT} {PIL.__version__}".encode())
    if split.pixels is not None:
        digest.update(repr(split.pixels.shape).encode())
        digest.update(np.ascontiguousarray(split.pixels).data)
    for file in split.files:
        size = file.stat().st_size if file.exists() else -1
        digest.update(f"{file.parent.name}/{file.name} {size}\n".encode())
    return digest.hexdigest()[:16]


class PixelCache:
    """The cache file of one split at one size.

    Args:
        folder: Where caches are kept.
        name: Data set and split, for the file name.
        split: The images.
        size: Side in pixels to which all images are resized; None keeps their own size.
    """

    def __init__(self, folder: Path, name: str, split: Split, size: int | None) -> None:
        self.split = split
        self.size = size
        self.path = folder / f"{name}-{size or 'native'}-{fingerprint(split)}.npy"
        self.stamp = self.path.with_suffix(".json")

    def read_stamp(self) -> dict[str, Any] | None:
        """Return the stamp if it fits an intact array, else None: the cache must be built.

        Raises:
            MixedSizesError: An earlier build found images of several sizes.
        """
        try:
            stamp: dict[str, Any] = json.loads(self.stamp.read_text())
            if stamp["mixed"]:
                raise MixedSizesError(stamp["mixed"])
            intact = stamp["checksum"] == _checksum(open_pixels(self.path))
        except (OSError, KeyError, TypeError, EOFError, json.JSONDecodeError):
            return None
        except MixedSizesError:
            raise
        except ValueError:
            return None
        return stamp if intact else None

    def bad_rows(self, on_bad_image: OnBadImage) -> list[int]:
        """Return the positions of images that could not be decoded.

        Raises:
            BadImageError: There are some, and ``on_bad_image`` is ``error``.
        """
        stamp = self.read_stamp()
        assert stamp is not None
        bad: list[int] = stamp["bad"]
        if bad and on_bad_image == "error":
            self.split.image(bad[0])
        return bad


def build(caches: Sequence[PixelCache], on_bad_image: OnBadImage) -> None:
    """Decode the images of one split once and write all of its ``caches`` that are not complete.

    Args:
        caches: Caches of the same split at different sizes.
        on_bad_image: ``error`` stops at the first bad image, ``skip`` records it in the stamp.

    Raises:
        BadImageError: An image cannot be decoded and ``on_bad_image`` is ``error``.
        MixedSizesError: A cache keeps the images' own size, and there are several.
        UserError: More than 1 % of the images are bad, or the disk is full or read-only.
    """
    caches = [cache for cache in caches if cache.read_stamp() is None]
    if not caches:
        return
    folder = caches[0].path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # runs that start together decode once: the others wait here, then find it done
        with lock(folder / ".lock", wait=True):
            caches = [cache for cache in caches if cache.read_stamp() is None]
            _remove_leftovers(folder)
            if caches:
                _write(caches, on_bad_image)
    except OSError as error:
        raise UserError(
            f"cannot write the image cache in {folder}: {error}; free some space there, use a "
            f"smaller --data.cache_limit, or do without with --data.cache none"
        ) from error


def _write(caches: Sequence[PixelCache], on_bad_image: OnBadImage) -> None:
    split = caches[0].split
    bad: list[int] = []
    shapes: list[tuple[int, ...]] = []
    with ExitStack() as stack:
        files = [stack.enter_context(_replacing(cache.path)) for cache in caches]
        for arrays in _decoded(split, caches, on_bad_image, bad):
            if not shapes:
                shapes = [array.shape for array in arrays]
                for file, shape in zip(files, shapes, strict=True):
                    _write_header(file, (len(split), *shape))
            for cache, file, shape, array in zip(caches, files, shapes, arrays, strict=True):
                if array.shape != shape:
                    _refuse_mixed(cache, shape, array.shape)
                file.write(array.data)
    for cache in caches:
        _write_stamp(cache, bad=bad, checksum=_checksum(open_pixels(cache.path)))


def _decoded(
    split: Split, caches: Sequence[PixelCache], on_bad_image: OnBadImage, bad: list[int]
) -> Iterator[list[Pixels]]:
    """Yield each image at the size of each cache, in order; fill ``bad``, whose pixels are zero."""

    def one(index: int) -> list[Pixels] | None:
        try:
            image = split.image(index)
        except BadImageError as error:
            if on_bad_image == "error":
                raise
            _log.warning("skipped: %s", error)
            return None
        return [
            np.ascontiguousarray(resize(image, cache.size) if cache.size else np.asarray(image))
            for cache in caches
        ]

    waiting = 0
    last: list[Pixels] | None = None
    starts = range(0, len(split), _CHUNK)
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        for start in track(starts, f"decoding {caches[0].path.stem} once"):
            indices = range(start, min(start + _CHUNK, len(split)))
            for index, arrays in zip(indices, pool.map(one, indices), strict=True):
                if arrays is None:
                    bad.append(index)
                    refuse_too_many_bad(len(bad), len(split))
                    waiting += 1
                    continue
                last = [np.zeros_like(array) for array in arrays] if last is None else last
                # bad images at the very beginning wait until the size is known
                yield from [last] * waiting
                waiting = 0
                yield arrays
    if last is not None:
        yield from [last] * waiting


def _refuse_mixed(cache: PixelCache, first: tuple[int, ...], other: tuple[int, ...]) -> None:
    message = (
        f"cache=source needs images of one size, {cache.path.stem} has {first[1]} x {first[0]} "
        f"and {other[1]} x {other[0]} px; use --data.cache resized"
    )
    _write_stamp(cache, mixed=message)
    raise MixedSizesError(message)


def _checksum(pixels: Pixels) -> str:
    """Return the shape and a checksum of up to 64 images from the first to the last."""
    rows = np.unique(np.linspace(0, len(pixels) - 1, 64).astype(int))
    return f"{pixels.shape} {zlib.crc32(np.ascontiguousarray(pixels[rows]).data)}"


def _write_header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _write_stamp(cache: PixelCache, **content: object) -> None:
    with _replacing(cache.stamp) as file:
        file.write(json.dumps({"mixed": None} | content).encode())


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """Give a file to write; rename it to ``path`` when all went well, remove it otherwise."""
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _remove_leftovers(folder: Path) -> None:
    """Remove temporary files of builders of this machine that no longer run."""
    for file in folder.glob(f".*.{socket.gethostname()}.*.tmp"):
        pid = file.name.split(".")[-2]
        try:
            os.kill(int(pid), 0)
        except (ProcessLookupError, ValueError):
            file.unlink(missing_ok=True)
        except PermissionError:
            continue
