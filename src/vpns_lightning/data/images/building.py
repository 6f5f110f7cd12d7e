"""Decoding the images of a split once, into all of its caches that are not complete."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import IO

import numpy as np
from rich.progress import track

from vpns_lightning.base.errors import UserError
from vpns_lightning.base.files import if_full, lock, replacing, sweep_temporaries
from vpns_lightning.base.processes import say
from vpns_lightning.data.images.cache import Checksums, MixedSizesError, PixelCache, checksum
from vpns_lightning.data.images.decode import (
    BadImageError,
    OnBadImage,
    Pixels,
    refuse_too_many_bad,
    resize,
)

_log = logging.getLogger(__name__)

_CHUNK = 256


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
    folder, sizes = caches[0].path.parent, list[int]()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # runs that start together decode once: the others wait here, then find it done
        with lock(folder / ".lock", wait=True) as alone:
            caches = [cache for cache in caches if cache.read_stamp() is None]
            if alone:
                sweep_temporaries(folder)
            for cache in caches:
                if cache.stamp.exists():
                    say(f"{cache.path} is not what was written there: it is made again")
            if caches:
                _write(caches, on_bad_image, sizes)
    except OSError as error:
        full = if_full(folder, sum(sizes), error.errno)
        raise UserError(
            f"cannot write the image cache ({full or f'{error.strerror}: {folder}'}): free some "
            "space there, name another place with --data.cache_dir, use a smaller "
            "--data.cache_limit, or do without with --data.cache none"
        ) from error


class _Writer:
    """Writes the images of one cache to their places in a file; a place left out is black.

    Not ``np.lib.format.open_memmap``: where a disk is full, writing to mapped memory kills the
    process instead of raising an error.
    """

    def __init__(self, cache: PixelCache, file: IO[bytes], sizes: list[int]) -> None:
        self.cache = cache
        self.file = file
        self.sizes = sizes  # of all files that are written together, bytes
        self.shape: tuple[int, ...] = ()
        self.checksums: Checksums = np.zeros(len(cache.split), dtype="<u4")

    def write(self, row: int, image: Pixels, expected: int) -> None:
        if not self.shape:
            self._begin(image.shape)
        if image.shape != self.shape:
            self._refuse(image.shape)
        self.file.seek(self.start + row * image.nbytes)
        self.file.write(image.data)
        self.checksums[row] = expected

    def _begin(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        count = len(self.cache.split)
        self.sizes.append(count * int(np.prod(shape)))
        if if_full(self.cache.path.parent, sum(self.sizes)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # before hours of decoding
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
        np.lib.format.write_array_header_1_0(self.file, header)
        self.start = self.file.tell()
        self.file.truncate(self.start + self.sizes[-1])
        self.checksums[:] = checksum(np.zeros(shape, np.uint8))

    def _refuse(self, other: tuple[int, ...]) -> None:
        first, name = self.shape, self.cache.path.stem
        message = (
            f"cache=source needs images of one size, {name} has {first[1]} x {first[0]} "
            f"and {other[1]} x {other[0]} px; use --data.cache resized"
        )
        self.cache.write_stamp(mixed=message)
        raise MixedSizesError(message)


def _write(caches: Sequence[PixelCache], on_bad_image: OnBadImage, sizes: list[int]) -> None:
    bad: list[int] = []
    with ExitStack() as stack:
        writers = []
        for cache in caches:
            # the renames come last, after all files are closed
            temporary = stack.enter_context(replacing(cache.path))
            writers.append(_Writer(cache, stack.enter_context(temporary.open("wb")), sizes))
        for row, arrays in _decoded(caches, on_bad_image, bad):
            for writer, (array, expected) in zip(writers, arrays, strict=True):
                writer.write(row, array, expected)
    for writer in writers:
        cache = writer.cache
        with replacing(cache.checksums) as temporary:
            writer.checksums.tofile(temporary)
        about = cache.path.stat()
        cache.write_stamp(bad=bad, bytes=about.st_size, mtime_ns=about.st_mtime_ns)


def _decoded(
    caches: Sequence[PixelCache], on_bad_image: OnBadImage, bad: list[int]
) -> Iterator[tuple[int, list[tuple[Pixels, int]]]]:
    """Yield row, then pixels and checksum at the size of each cache; fill ``bad`` with the rest."""
    split = caches[0].split

    def one(row: int) -> list[tuple[Pixels, int]] | None:
        try:
            image = split.image(row)
        except BadImageError as error:
            if on_bad_image == "error":
                raise
            _log.warning("skipped: %s", error)
            return None
        arrays = [
            resize(image, cache.size) if cache.size else np.asarray(image) for cache in caches
        ]
        whole = [np.ascontiguousarray(array) for array in arrays]
        return [(array, checksum(array)) for array in whole]

    with ThreadPoolExecutor(min(16, len(os.sched_getaffinity(0)))) as pool:
        for start in track(range(0, len(split), _CHUNK), f"decoding {caches[0].path.stem} once"):
            rows = range(start, min(start + _CHUNK, len(split)))
            for row, arrays in zip(rows, pool.map(one, rows), strict=True):
                if arrays is None:
                    bad.append(row)
                    refuse_too_many_bad(len(bad), len(split))
                else:
                    yield row, arrays
