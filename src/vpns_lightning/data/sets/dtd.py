"""Describable Textures (Cimpoi et al., 2014, https://www.robots.ox.ac.uk/~vgg/data/dtd)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torchvision.datasets.utils import download_and_extract_archive

from vpns_lightning.data.check import Counts
from vpns_lightning.data.layout import Layout
from vpns_lightning.data.module import ImageData, SplitName
from vpns_lightning.data.split import Split


class DTD(ImageData):
    """5,640 images in 47 classes; train and val of the first partition are the training images.

    Args:
        root: Folder that holds ``dtd/dtd``, or ``dtd`` as the archive extracts it.
        batch_size: Images in a batch of one rank.
        **kwargs: See ``ImageData``.
    """

    num_classes = 47
    counts = Counts(train=3_760, test=1_880)
    layout = Layout(
        ("images", "labels/train1.txt", "labels/val1.txt", "labels/test1.txt"),
        "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
        downloadable=True,
        places=("dtd/dtd", "dtd", "", "dtd-r1.0.1/dtd"),
    )

    def __init__(self, root: str = "data", *, batch_size: int = 64, **kwargs: Any) -> None:
        super().__init__(root, batch_size=batch_size, **kwargs)

    def fetch(self) -> None:
        """Download and extract the archive."""
        md5 = "fff73e5086ae6bdbea199a49dfb8a4c1"
        download_and_extract_archive(self.layout.url, self.root / "dtd", md5=md5)

    def read(self, split: SplitName) -> Split:
        """Return the files of one split."""
        images, train, val, test = self.found().paths
        names = [name for list_ in (train, val, test) for name in _lines(list_)]
        classes = sorted({name.partition("/")[0] for name in names})
        label = {name: index for index, name in enumerate(classes)}
        lists = (train, val) if split == "train" else (test,)
        names = [name for list_ in lists for name in _lines(list_)]
        return Split(
            [label[name.partition("/")[0]] for name in names],
            classes,
            [images / name for name in names],
        )


def _lines(file: Path) -> list[str]:
    return file.read_text().split()
