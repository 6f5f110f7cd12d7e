"""Food-101 (Bossard et al., 2014, https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101)."""

from __future__ import annotations

from torchvision import datasets

from vpns_lightning.data.check import Counts
from vpns_lightning.data.layout import Layout
from vpns_lightning.data.module import ImageData, SplitName
from vpns_lightning.data.split import Split


class Food101(ImageData):
    """101,000 images in 101 classes."""

    num_classes = 101
    counts = Counts(train=75_750, test=25_250)
    layout = Layout(
        ("food-101/images", "food-101/meta/train.json", "food-101/meta/test.json"),
        datasets.Food101._URL,
        downloadable=True,
    )

    def fetch(self) -> None:
        """Download and extract the archive."""
        datasets.Food101(self.root, download=True)

    def read(self, split: SplitName) -> Split:
        """Return the files of one split."""
        reader = datasets.Food101(self.root, split)
        return Split(reader._labels, reader.classes, reader._image_files)
