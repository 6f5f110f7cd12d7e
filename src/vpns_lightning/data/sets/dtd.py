"""Describable Textures (Cimpoi et al., 2014, https://www.robots.ox.ac.uk/~vgg/data/dtd)."""

from __future__ import annotations

from typing import Any

from torchvision import datasets

from vpns_lightning.data.check import Counts
from vpns_lightning.data.layout import Layout
from vpns_lightning.data.module import ImageData, SplitName
from vpns_lightning.data.split import Split


class DTD(ImageData):
    """5,640 images in 47 classes; train and val of the first partition are the training images.

    Args:
        root: Folder that holds ``dtd/dtd``.
        batch_size: Images in a batch of one rank.
        **kwargs: See ``ImageData``.
    """

    num_classes = 47
    counts = Counts(train=3_760, test=1_880)
    layout = Layout(
        ("dtd/dtd/images", *(f"dtd/dtd/labels/{part}1.txt" for part in ("train", "val", "test"))),
        datasets.DTD._URL,
        downloadable=True,
    )

    def __init__(self, root: str = "data", *, batch_size: int = 64, **kwargs: Any) -> None:
        super().__init__(root, batch_size=batch_size, **kwargs)

    def fetch(self) -> None:
        """Download and extract the archive."""
        datasets.DTD(self.root, download=True)

    def read(self, split: SplitName) -> Split:
        """Return the files of one split."""
        readers = [
            datasets.DTD(self.root, part)
            for part in (("train", "val") if split == "train" else ("test",))
        ]
        return Split.join(Split(r._labels, r.classes, r._image_files) for r in readers)
