"""Images that can be fetched by position: decoded before, or whenever they are asked for."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from vpns_lightning.base.errors import UserError
from vpns_lightning.data.images.decode import (
    BadImageError,
    OnBadImage,
    Pixels,
    refuse_too_many_bad,
    resize,
)
from vpns_lightning.data.split import Split

_log = logging.getLogger(__name__)


class Store(ABC):
    """Images that can be fetched by position.

    Attributes:
        decodes: Whether fetching takes long enough for processes of its own.
    """

    decodes: ClassVar[bool] = False

    @abstractmethod
    def fetch(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return images and, where some could not be read, which of ``rows`` were.

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
        """Return the images at ``rows``; none is ever missing."""
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
        on_bad_image: ``error`` stops at the first file that cannot be decoded, ``skip`` leaves
            it out.
    """

    decodes = True

    def __init__(self, split: Split, size: int, on_bad_image: OnBadImage) -> None:
        self.split = split
        self.size = size
        self.on_bad_image = on_bad_image
        # shared, so that what loader workers find adds up
        self.bad = torch.zeros(len(split), dtype=torch.bool, device="cpu")
        self.bad.share_memory_()  # type: ignore[no-untyped-call]  # untyped in torch

    def fetch(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Decode the images at ``rows``.

        Raises:
            BadImageError: A file cannot be decoded and ``on_bad_image`` is ``error``.
            UserError: More than 1 % of all files, or all files of a batch, cannot be decoded.
        """
        images = torch.empty(len(rows), self.size, self.size, 3, dtype=torch.uint8, device="cpu")
        good = torch.ones(len(rows), dtype=torch.bool, device="cpu")
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
                f"{self.split.named(int(rows[0]))}; restore them or use a larger batch_size"
            )
        return images[good].permute(0, 3, 1, 2), good

    def _remember(self, row: int, error: BadImageError) -> None:
        if not self.bad[row]:
            _log.warning("skipped: %s", error)
        self.bad[row] = True
        refuse_too_many_bad(int(self.bad.sum()), len(self.split))
