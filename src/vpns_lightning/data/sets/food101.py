"""Food-101 (Bossard et al., 2014, https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101)."""

from __future__ import annotations

import json

from torchvision.datasets.utils import download_and_extract_archive

from vpns_lightning.data.check import Counts
from vpns_lightning.data.layout import Layout
from vpns_lightning.data.module import ImageData, SplitName
from vpns_lightning.data.split import Split


class Food101(ImageData):
    """101,000 images in 101 classes."""

    num_classes = 101
    counts = Counts(train=75_750, test=25_250)
    layout = Layout(
        ("images", "meta/train.json", "meta/test.json"),
        "http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
        downloadable=True,
        places=("food-101", "food-101/food-101", "", "food101"),
    )

    def fetch(self) -> None:
        """Download and extract the archive."""
        md5 = "85eeb15f3717b99a5da872d97d918f87"
        download_and_extract_archive(self.layout.url, self.root, md5=md5)

    def read(self, split: SplitName) -> Split:
        """Return the files of one split."""
        images, train, test = self.found().paths
        names: dict[str, list[str]] = json.loads((train if split == "train" else test).read_text())
        classes = sorted(names)
        label = {name: index for index, name in enumerate(classes)}
        return Split(
            [label[name] for name, files in names.items() for _ in files],
            classes,
            [images / f"{file}.jpg" for files in names.values() for file in files],
        )
