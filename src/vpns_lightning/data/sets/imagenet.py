"""ImageNet-1k (Russakovsky et al., 2015, https://www.image-net.org)."""

from __future__ import annotations

from typing import Any

from vpns_lightning.data.check import Counts
from vpns_lightning.data.layout import Layout, class_folders, read_folders
from vpns_lightning.data.module import ImageData, SplitName
from vpns_lightning.data.split import Split


class ImageNet(ImageData):
    """1,331,167 images in 1,000 classes; the official val part is the test split.

    Args:
        root: Folder that holds ``imagenet``, or ``train`` and ``val`` themselves.
        batch_size: Images in a batch of one rank.
        **kwargs: See ``ImageData``.
    """

    num_classes = 1000
    counts = Counts(train=1_281_167, test=50_000)
    layout = Layout(
        ("imagenet/train", "imagenet/val"),
        "https://www.image-net.org/download.php (one folder of images for each wnid in either)",
        alternatives=(("train", "val"),),
    )

    def __init__(self, root: str = "data", *, batch_size: int = 1024, **kwargs: Any) -> None:
        super().__init__(root, batch_size=batch_size, **kwargs)

    def read(self, split: SplitName) -> Split:
        """Return the files of one split."""
        folder = self.root / "imagenet"
        if not folder.is_dir():
            folder = self.root
        part = "train" if split == "train" else "val"
        return read_folders(folder / part, class_folders(folder / "train"))
