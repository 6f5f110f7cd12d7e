"""Decode once: the images of a split as one uint8 array in a memory-mapped file.

A cache is three files: ``<key>.npy``, ``<key>.crc32`` with a checksum of every image, and last the
stamp ``<key>.json``. The key holds names, sizes and times of all image files, so an edited data set
gets a new cache. All are written under a temporary name, synced and renamed: a killed or a second
builder does no harm.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import PIL

from vpns_lightning.base.errors import UserError
from vpns_lightning.base.files import replacing
from vpns_lightning.data.images.decode import OnBadImage, Pixels
from vpns_lightning.data.split import Split

_FORMAT = 2
_CHUNK = 256
_SAMPLE = 64

Checksums: TypeAlias = npt.NDArray[np.uint32]


class MixedSizesError(UserError):
    """The images of a split have several sizes, so they cannot be kept at their own size."""


def open_pixels(path: Path) -> Pixels:
    """Return the array of shape (N, h, w, 3) in ``path``, memory-mapped.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no such array.
    """
    try:
        # copy-on-write: torch warns about tensors from read-only arrays
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # the header is parsed as Python, with its many kinds of errors
        raise ValueError(f"{path} is no array: {error}") from error
    if array.dtype != np.uint8 or array.ndim != 4 or not array.flags.c_contiguous:
        raise ValueError(f"{path} is an array of {array.dtype}, {array.shape}, not of images")
    return cast("Pixels", array)


def damaged_images(path: Path, sample: int | None = None) -> list[int]:
    """Return the positions of images that are not what was written into a cache.

    Args:
        path: The array.
        sample: How many images to look at, from the first to the last; None is all.

    Raises:
        OSError: The cache cannot be read.
        ValueError: It is no cache.
    """
    pixels = open_pixels(path)
    expected: Checksums = np.fromfile(path.with_suffix(".crc32"), dtype="<u4")
    if len(expected) != len(pixels):
        raise ValueError(f"{len(pixels)} images and {len(expected)} checksums")
    rows = np.arange(len(pixels))
    if sample is not None:
        rows = np.unique(np.linspace(0, len(pixels) - 1, sample).astype(int))

    def differing(some: npt.NDArray[np.int64]) -> list[int]:
        return [int(row) for row in some if checksum(pixels[row]) != expected[row]]

    with ThreadPoolExecutor() as pool:
        parts = pool.map(differing, np.array_split(rows, -(-len(rows) // _CHUNK)))
        return [row for part in parts for row in part]


def verify_caches(folder: Path) -> list[str]:
    """Compare every byte of the caches in a folder with what was written; return a line for each.

    Raises:
        UserError: A cache is damaged.
    """
    lines = []
    for stamp in sorted(folder.glob("*.json")):
        path = stamp.with_suffix(".npy")
        try:
            if _unsealed(stamp)["mixed"]:
                continue  # says why there is no array
            damaged, images = damaged_images(path), len(open_pixels(path))
        except (OSError, KeyError, TypeError, EOFError, ValueError) as error:
            raise UserError(
                f"the cache {path} is damaged ({error}): delete it, and the next run makes it again"
            ) from error
        if damaged:
            raise UserError(
                f"the cache {path} is damaged: {len(damaged)} of its {images:,} images are not "
                f"what was written, the first is image {damaged[0]}; delete it, and the next run "
                f"makes it again"
            )
        size = path.stat().st_size / (1 << 20)
        lines.append(f"{path}: {images:,} images, {size:,.1f} MiB, every byte as it was written")
    return lines


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
        parts = (_FORMAT, PIL.__version__, split.exif_rotation, split.fingerprint)
        key = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
        self.path = folder / f"{name}-{size or 'native'}-{key}.npy"
        self.checksums = self.path.with_suffix(".crc32")
        self.stamp = self.path.with_suffix(".json")

    def read_stamp(self) -> dict[str, Any] | None:
        """Return the stamp if it fits an intact array, else None: the cache must be built.

        A file that has not been written to since is known by its size and time, and a sample of
        its images is compared with their checksums; any other is compared as a whole.

        Raises:
            MixedSizesError: An earlier build found images of several sizes.
        """
        try:
            stamp = _unsealed(self.stamp)
            if stamp["mixed"]:
                raise MixedSizesError(stamp["mixed"])
            about = self.path.stat()
            if about.st_size != stamp["bytes"] or len(open_pixels(self.path)) != len(self.split):
                return None
            untouched = about.st_mtime_ns == stamp["mtime_ns"]
            if damaged_images(self.path, _SAMPLE if untouched else None):
                return None
            if not untouched:
                with suppress(OSError):  # of a folder that only others may write
                    self.write_stamp(**{**stamp, "mtime_ns": about.st_mtime_ns})
        except MixedSizesError:
            raise
        except (OSError, KeyError, TypeError, EOFError, ValueError):
            return None
        return stamp

    def bad_rows(self, on_bad_image: OnBadImage) -> list[int]:
        """Return the positions of images that could not be decoded.

        Raises:
            BadImageError: There are some, and ``on_bad_image`` is ``error``.
        """
        stamp = _unsealed(self.stamp)
        bad: list[int] = stamp["bad"]
        if bad and on_bad_image == "error":
            self.split.image(bad[0])
        return bad

    def write_stamp(self, **content: object) -> None:
        """Write the stamp, which makes the cache valid."""
        with replacing(self.stamp) as temporary:
            temporary.write_text(_sealed({"mixed": None} | content))


def _sealed(content: dict[str, Any]) -> str:
    """Return JSON with a checksum of its own content."""
    return json.dumps(content | {"crc32": zlib.crc32(json.dumps(content).encode())})


def _unsealed(path: Path) -> dict[str, Any]:
    """Return the content that was sealed.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not what was written.
        KeyError: It was never sealed.
    """
    content: dict[str, Any] = json.loads(path.read_text())
    if content.pop("crc32") != zlib.crc32(json.dumps(content).encode()):
        raise ValueError(f"{path} is not what was written")
    return content


def checksum(image: Pixels) -> int:
    """Return the CRC-32 of an image's pixels, which finds every flipped bit."""
    return zlib.crc32(np.ascontiguousarray(image).data)
