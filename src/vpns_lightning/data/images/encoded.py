"""JPEG files that are decoded where a batch is sent to: on a GPU by its own decoder."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import io
from torchvision.transforms.v2 import functional as F

from vpns_lightning.base.errors import UserError
from vpns_lightning.data.images.decode import OnBadImage
from vpns_lightning.data.images.stores import DecodingStore
from vpns_lightning.data.split import Split

MODES = ("RGB", "L")  # of JPEG files that every decoder of torchvision takes


class Encoded:
    """Images as their files hold them; sent to a device they are pixels.

    Loader processes pass one tensor, however many files there are.

    Args:
        files: What the JPEG files hold, one after the other, uint8.
        sizes: Bytes of each.
        side: Height and width of the pixels.
    """

    def __init__(self, files: Tensor, sizes: Sequence[int], side: int) -> None:
        self.files = files
        self.sizes = list(sizes)
        self.side = side

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.sizes)

    def __getitem__(self, some: slice) -> Encoded:
        """Return a part of the images."""
        parts = torch.split(self.files, self.sizes)[some]
        return Encoded(torch.cat(parts), self.sizes[some], self.side)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Tensor:
        """Return uint8 images of shape (N, 3, side, side) in channels_last order, on a device.

        Args:
            device: Where to decode.
            non_blocking: Not used: decoders read the files on the host.

        Raises:
            UserError: A file cannot be decoded there.
        """
        device = torch.device(device)
        parts = list(torch.split(self.files, self.sizes))
        try:
            with warnings.catch_warnings():
                # that a later torchvision will lack it, which is said when it does
                warnings.simplefilter("ignore", DeprecationWarning)
                images = io.decode_jpeg(parts, mode=io.ImageReadMode.RGB, device=device)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"a JPEG file of a batch cannot be decoded on {device} ({reason}): without "
                "--data.decode_on_device the file is named, if it is one"
            ) from error
        sides = [self.side, self.side]
        resized = [F.resize(image, sides, antialias=True) for image in images]
        return torch.stack(resized).contiguous(memory_format=torch.channels_last)


class ReadingStore(DecodingStore):
    """Files read whenever they are fetched, and decoded on the device that the batch is sent to.

    A batch that holds anything but grey or RGB JPEG files is decoded here.

    Args:
        split: Where the images are.
        size: Height and width in pixels of the images.
        on_bad_image: See :class:`DecodingStore`.

    Raises:
        UserError: This torchvision cannot decode.
    """

    def __init__(self, split: Split, size: int, on_bad_image: OnBadImage) -> None:
        if not hasattr(io, "decode_jpeg"):
            raise UserError("this torchvision decodes no images: leave out data.decode_on_device")
        super().__init__(split, size, on_bad_image)

    def fetch(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Read the files at ``rows``.

        Raises:
            BadImageError: See :class:`DecodingStore`.
            UserError: See :class:`DecodingStore`.
        """
        paths = [self.split.files[row] for row in rows.tolist()]
        if not all(map(_is_plain_jpeg, paths)):
            return super().fetch(rows)
        files = [path.read_bytes() for path in paths]
        joined = torch.from_numpy(np.frombuffer(bytearray(b"".join(files)), np.uint8))
        return Encoded(joined, list(map(len, files)), self.size), None  # type: ignore[return-value]  # sent to a device it is a Tensor


def _is_plain_jpeg(path: Path) -> bool:
    """Return whether a file's head is that of a grey or RGB JPEG."""
    try:
        with Image.open(path) as image:
            return image.format == "JPEG" and image.mode in MODES
    except (OSError, ValueError, SyntaxError):
        return False
