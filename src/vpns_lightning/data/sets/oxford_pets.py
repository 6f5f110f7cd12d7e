"""Oxford-IIIT Pets (Parkhi et al., 2012, https://www.robots.ox.ac.uk/~vgg/data/pets)."""

from __future__ import annotations

from typing import Any

from torchvision import datasets

from vpns_lightning.data.check import Counts
from vpns_lightning.data.layout import Layout
from vpns_lightning.data.module import ImageData, SplitName
from vpns_lightning.data.split import Split


class OxfordPets(ImageData):
    """7,349 images in 37 classes; the official trainval part are the training images.

    Args:
        root: Folder that holds ``oxford-iiit-pet``.
        batch_size: Images in a batch of one rank.
        **kwargs: See ``ImageData``.
    """

    num_classes = 37
    counts = Counts(train=3_680, test=3_669)
    layout = Layout(
        (
            "oxford-iiit-pet/images",
            "oxford-iiit-pet/annotations/trainval.txt",
            "oxford-iiit-pet/annotations/test.txt",
        ),
        "https://www.robots.ox.ac.uk/~vgg/data/pets/",
        downloadable=True,
    )

    def __init__(self, root: str = "data", *, batch_size: int = 64, **kwargs: Any) -> None:
        super().__init__(root, batch_size=batch_size, **kwargs)

    def fetch(self) -> None:
        """Download and extract images and annotations."""
        datasets.OxfordIIITPet(self.root, download=True)

    def read(self, split: SplitName) -> Split:
        """Return the files of one split."""
        part = "trainval" if split == "train" else "test"
        reader = datasets.OxfordIIITPet(self.root, part)
        return Split(reader._labels, reader.classes, reader._images)
