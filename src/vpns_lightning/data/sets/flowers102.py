"""Oxford 102 Flowers (Nilsback & Zisserman, 2008, https://www.robots.ox.ac.uk/~vgg/data/flowers)."""

from __future__ import annotations

from typing import Any

from torchvision import datasets

from vpns_lightning.data.check import Counts
from vpns_lightning.data.layout import Layout
from vpns_lightning.data.module import ImageData, SplitName
from vpns_lightning.data.split import Split


class Flowers102(ImageData):
    """8,189 images in 102 classes; the official train and val parts are the training images.

    Args:
        root: Folder that holds ``flowers-102``.
        batch_size: Images in a batch of one rank.
        **kwargs: See ``ImageData``.
    """

    num_classes = 102
    counts = Counts(train=2_040, test=6_149)
    layout = Layout(
        ("flowers-102/jpg", "flowers-102/imagelabels.mat", "flowers-102/setid.mat"),
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        downloadable=True,
    )

    def __init__(self, root: str = "data", *, batch_size: int = 128, **kwargs: Any) -> None:
        super().__init__(root, batch_size=batch_size, **kwargs)

    def fetch(self) -> None:
        """Download and extract images, labels and splits."""
        datasets.Flowers102(self.root, download=True)

    def read(self, split: SplitName) -> Split:
        """Return the files of one split."""
        from scipy.io import loadmat

        folder = self.root / "flowers-102"
        labels = loadmat(folder / "imagelabels.mat")["labels"].flatten() - 1
        parts = loadmat(folder / "setid.mat")
        keys = ("trnid", "valid") if split == "train" else ("tstid",)
        numbers = [int(number) for key in keys for number in parts[key].flatten()]
        return Split(
            [int(labels[number - 1]) for number in numbers],
            datasets.Flowers102.classes,
            [folder / "jpg" / f"image_{number:05d}.jpg" for number in numbers],
        )
