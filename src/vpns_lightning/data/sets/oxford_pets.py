"""Oxford-IIIT Pets (Parkhi et al., 2012, https://www.robots.ox.ac.uk/~vgg/data/pets)."""

from __future__ import annotations

from typing import Any

from torchvision.datasets.utils import download_and_extract_archive

from vpns_lightning.data.check import Counts
from vpns_lightning.data.layout import Layout, either
from vpns_lightning.data.module import ImageData, SplitName
from vpns_lightning.data.split import Split

_WAYS = either(
    ("images", "images/images"),
    ("annotations/trainval.txt", "annotations/annotations/trainval.txt"),
    ("annotations/test.txt", "annotations/annotations/test.txt"),
)


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
        _WAYS[0],
        "https://www.robots.ox.ac.uk/~vgg/data/pets/",
        downloadable=True,
        alternatives=_WAYS[1:],
        places=("oxford-iiit-pet", "oxford-iiit-pet/oxford-iiit-pet", "", "oxford_pets"),
    )

    def __init__(self, root: str = "data", *, batch_size: int = 64, **kwargs: Any) -> None:
        super().__init__(root, batch_size=batch_size, **kwargs)

    def fetch(self) -> None:
        """Download and extract images and annotations."""
        for name, md5 in (
            ("images.tar.gz", "5c4f3ee8e5d25df40f4fd59a7f44e54c"),
            ("annotations.tar.gz", "95a8c909bbe2e81eed6a22bccdf3f68f"),
        ):
            url = f"{self.layout.url}data/{name}"
            download_and_extract_archive(url, self.root / "oxford-iiit-pet", md5=md5)

    def read(self, split: SplitName) -> Split:
        """Return the files of one split."""
        images, train, test = self.found().paths
        lines = (train if split == "train" else test).read_text().splitlines()
        # name, class from 1, cat or dog, breed among these; comments begin with #
        fields = [line.split() for line in lines if line.strip() and not line.startswith("#")]
        labels = [int(label) - 1 for _, label, *_ in fields]
        breeds = (name.rpartition("_")[0] for name, *_ in fields)
        by_label = dict(zip(labels, breeds, strict=True))
        return Split(
            labels,
            [by_label[label].replace("_", " ").title() for label in sorted(by_label)],
            [images / f"{name}.jpg" for name, *_ in fields],
        )
