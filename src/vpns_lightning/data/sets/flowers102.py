"""Oxford 102 Flowers (Nilsback & Zisserman, 2008, https://www.robots.ox.ac.uk/~vgg/data/flowers)."""

from __future__ import annotations

from typing import Any

from torchvision import datasets
from torchvision.datasets.utils import download_and_extract_archive, download_url

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
        ("jpg", "imagelabels.mat", "setid.mat"),
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        downloadable=True,
        places=("flowers-102", "flowers-102/flowers-102", "", "oxford_flowers", "102flowers"),
        numbered=("dataset", "flower_data"),  # of Kaggle, and of the challenge it is from
    )

    def __init__(self, root: str = "data", *, batch_size: int = 128, **kwargs: Any) -> None:
        super().__init__(root, batch_size=batch_size, **kwargs)

    def fetch(self) -> None:
        """Download and extract images, labels and splits."""
        folder, url = self.root / "flowers-102", self.layout.url
        md5 = "52808999861908f626f3c1f4e79d11fa"
        download_and_extract_archive(f"{url}102flowers.tgz", folder, md5=md5)
        for name, md5 in (
            ("imagelabels.mat", "e0620be6f572b9609742df49c70aed4d"),
            ("setid.mat", "a5357ecc9cb78c4bef273ce3793fc85c"),
        ):
            download_url(f"{url}{name}", folder, md5=md5)

    def read(self, split: SplitName) -> Split:
        """Return the files of one split."""
        from scipy.io import loadmat

        images, labels_file, parts_file = self.found().paths
        labels = loadmat(labels_file)["labels"].flatten() - 1
        parts = loadmat(parts_file)
        keys = ("trnid", "valid") if split == "train" else ("tstid",)
        numbers = [int(number) for key in keys for number in parts[key].flatten()]
        return Split(
            [int(labels[number - 1]) for number in numbers],
            datasets.Flowers102.classes,
            [images / f"image_{number:05d}.jpg" for number in numbers],
        )
