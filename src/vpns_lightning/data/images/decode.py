"""Splits, image decoding, and data sets that yield batches of uint8 pixels."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from vpns_lightning.base.errors import UserError

Pixels: TypeAlias = npt.NDArray[np.uint8]
# images (N, 3, h, w) as uint8, labels (N,), and positions in the split (N,)
IndexedBatch: TypeAlias = tuple[Tensor, Tensor, Tensor]
OnBadImage: TypeAlias = Literal["error", "skip"]

MAX_BAD_FRACTION = 0.01

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """What a data set knows about one split before any image file is decoded.

    Attributes:
        labels: Class index of each image, in [0, number of classes).
        class_names: One name for each class, in index order.
        files: One image file for each label; empty when `pixels` holds the images.
        pixels: Images of shape (N, h, w, 3), values 0..255; None when `files` names them.
    """

    labels: Sequence[int]
    class_names: Sequence[str]
    files: Sequence[Path] = ()
    pixels: Pixels | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        """Return one RGB image.

        Raises:
            BadImageError: Its file cannot be decoded.
        """
        if self.pixels is not None:
            return Image.fromarray(self.pixels[index])
        return decode(self.files[index], index)

    def take(self, rows: Sequence[int]) -> Split:
        """Return the images at some positions, in that order."""
        return Split(
            [self.labels[row] for row in rows],
            self.class_names,
            [self.files[row] for row in rows] if self.pixels is None else (),
            None if self.pixels is None else self.pixels[list(rows)],
        )

    @staticmethod
    def join(parts: Iterable[Split]) -> Split:
        """Return the file-based `parts` one after the other, as one split."""
        parts = list(parts)
        labels = [label for part in parts for label in part.labels]
        files = [file for part in parts for file in part.files]
        return Split(labels, parts[0].class_names, files)


class BadImageError(UserError):
    """An image file that is missing, empty, truncated or no image at all."""


def decode(path: Path, index: int | None = None) -> Image.Image:
    """Return the image in `path` as RGB, whatever its mode on disk.

    Args:
        path: File in any format and mode PIL reads (grey, palette, CMYK and RGBA included).
        index: Position of the file in its split, for the message; None for a file of no data set.

    Raises:
        BadImageError: The file cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, MemoryError) as error:
        reason = "the file does not exist" if not path.exists() else str(error) or repr(error)
    except Image.DecompressionBombError as error:
        reason = str(error)
    if index is None:
        raise BadImageError(
            f"cannot decode image {path}: {reason}; restore the file, or take it away"
        )
    raise BadImageError(
        f"cannot decode image {index}, {path}: {reason}; restore the file, or continue without "
        f"such images with --data.on_bad_image skip"
    )


def resize(image: Image.Image, size: int) -> Pixels:
    """Return `image` resized as torchvision resizes a PIL image.

    Args:
        image: RGB image of any size.
        size: Height and width of the result in pixels; the aspect ratio is not kept (r_i(x)).

    Returns:
        Array of shape (size, size, 3).
    """
    return np.asarray(F.resize(image, [size, size], InterpolationMode.BILINEAR, antialias=True))


def refuse_too_many_bad(bad: int, total: int) -> None:
    """Stop when skipping bad images would change the data set noticeably.

    Raises:
        UserError: More than 1 % of the images cannot be decoded.
    """
    if bad > MAX_BAD_FRACTION * total:
        raise UserError(
            f"{bad} of {total} images cannot be decoded, more than the {MAX_BAD_FRACTION:.0%} "
            f"that on_bad_image=skip allows; extract or download the data set again"
        )


class Store(ABC):
    """Images that can be fetched by position."""

    @abstractmethod
    def fetch(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return images and, where some could not be read, which of `rows` were.

        Args:
            rows: int64 positions of shape (N,).

        Returns:
            uint8 images of shape (M, 3, h, w) in channels_last order, and either None (M = N) or
            a bool tensor of shape (N,) with M true values.
        """


class ArrayStore(Store):
    """Images in one array, in memory or memory-mapped.

    Args:
        open_array: Returns the array, shape (N, h, w, 3). It is called in the process that
            fetches, so that a pickled store (spawned workers) carries no pixels.
    """

    def __init__(self, open_array: Callable[[], Pixels]) -> None:
        self.open_array = open_array
        self._images: Tensor | None = None

    def fetch(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the images at `rows`; none is ever missing."""
        if self._images is None:
            self._images = torch.from_numpy(self.open_array())
        return self._images.index_select(0, rows).permute(0, 3, 1, 2), None

    def __getstate__(self) -> dict[str, object]:
        """Leave the pixels behind: memory-mapped arrays would be pickled as a whole."""
        return {"open_array": self.open_array, "_images": None}


class DecodingStore(Store):
    """Images decoded and resized whenever they are fetched.

    Args:
        split: Where the images are.
        size: Height and width in pixels of the fetched images.
        on_bad_image: `error` stops at the first file that cannot be decoded, `skip` leaves it out.
    """

    def __init__(self, split: Split, size: int, on_bad_image: OnBadImage) -> None:
        self.split = split
        self.size = size
        self.on_bad_image = on_bad_image
        # shared, so that what loader workers find adds up
        self.bad = torch.zeros(len(split), dtype=torch.bool)
        self.bad.share_memory_()  # type: ignore[no-untyped-call]  # untyped in torch

    def fetch(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Decode the images at `rows`.

        Raises:
            BadImageError: A file cannot be decoded and `on_bad_image` is `error`.
            UserError: More than 1 % of all files, or all files of a batch, cannot be decoded.
        """
        images = torch.empty(len(rows), self.size, self.size, 3, dtype=torch.uint8)
        good = torch.ones(len(rows), dtype=torch.bool)
        for place, row in enumerate(rows.tolist()):
            try:
                image = self.split.image(row)
            except BadImageError as error:
                if self.on_bad_image == "error":
                    raise
                good[place] = False
                self._remember(row, error)
            else:
                images[place] = torch.from_numpy(resize(image, self.size).copy())
        if good.all():
            return images.permute(0, 3, 1, 2), None
        if not good.any():
            raise UserError(
                f"none of the {len(rows)} images of a batch can be decoded, the first is "
                f"{self.split.files[int(rows[0])]}; restore the files or use a larger batch_size"
            )
        return images[good].permute(0, 3, 1, 2), good

    def _remember(self, row: int, error: BadImageError) -> None:
        if not self.bad[row]:
            _log.warning("skipped: %s", error)
        self.bad[row] = True
        refuse_too_many_bad(int(self.bad.sum()), len(self.split))


class ImageDataset(Dataset[IndexedBatch]):
    """Batches of `(images, labels, rows)` from a store.

    Args:
        store: Where the pixels come from.
        labels: int64 class indices of shape (N,), one for each position of the store.
        rows: int64 positions of shape (M,): the images of this data set, a part of the store.
    """

    def __init__(self, store: Store, labels: Tensor, rows: Tensor) -> None:
        self.store = store
        self.labels = labels
        self.rows = rows

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.rows)

    def __getitem__(self, index: int) -> IndexedBatch:
        """Return image `index` as a batch of one."""
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> IndexedBatch:
        """Return a batch.

        Args:
            indices: Positions in this data set.

        Returns:
            uint8 images of shape (N, 3, h, w), int64 labels of shape (N,), and int64 positions in
            the whole split of shape (N,), which identify an image whatever part is held out.
        """
        rows = self.rows[torch.tensor(indices)]
        images, good = self.store.fetch(rows)
        if good is not None:
            rows = rows[good]
        return images, self.labels[rows], rows
