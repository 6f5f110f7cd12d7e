"""What a data set knows about its images before any file is decoded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from vpns_lightning.data.images.decode import Pixels, decode


@dataclass(frozen=True)
class Split:
    """What a data set knows about one split before any image file is decoded.

    Attributes:
        labels: Class index of each image, in [0, number of classes).
        class_names: One name for each class, in index order.
        files: One image file for each label; empty when ``pixels`` holds the images.
        pixels: Images of shape (N, h, w, 3), values 0..255; None when ``files`` names them.
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
        """Return the file-based ``parts`` one after the other, as one split."""
        parts = list(parts)
        labels = [label for part in parts for label in part.labels]
        files = [file for part in parts for file in part.files]
        return Split(labels, parts[0].class_names, files)
