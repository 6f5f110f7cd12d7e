"""Your own images, in one folder for each class."""

from __future__ import annotations

from typing import Any

from vpns_lightning.data.layout import Layout, class_folders, read_folders
from vpns_lightning.data.module import ImageData, SplitName
from vpns_lightning.data.split import Split


class ImageFolder(ImageData):
    """Images in ``root/train/<class>/`` and ``root/test/<class>/``; ``val`` does for ``test``.

    Args:
        root: Folder with ``train`` and ``test``.
        **kwargs: See ``ImageData``.

    Raises:
        UserError: There are no class folders in ``root/train``.
    """

    layout = Layout(("train", "test"), alternatives=(("train", "val"),))

    def __init__(self, root: str = "data", **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self.num_classes = len(class_folders(self.root / "train"))

    def read(self, split: SplitName) -> Split:
        """Return the files of one split."""
        names = class_folders(self.root / "train")
        folder = self.root / split
        if split == "test" and not folder.is_dir():
            folder = self.root / "val"
        return read_folders(folder, names)
