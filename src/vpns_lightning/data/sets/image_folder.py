"""Your own images, in one folder for each class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from vpns_lightning.data.folders import class_folders, read_folders
from vpns_lightning.data.layout import Layout, either
from vpns_lightning.data.module import ImageData, SplitName
from vpns_lightning.data.split import Split

_TEST = ("test", "val", "valid", "validation")
_WAYS = either(("train", "Train"), (*_TEST, *(name.capitalize() for name in _TEST)))


class ImageFolder(ImageData):
    """Images in ``root/train/<class>/`` and ``root/test/<class>/``; ``val`` does for ``test``.

    Args:
        root: Folder with ``train`` and ``test``.
        **kwargs: See ``ImageData``.

    Raises:
        UserError: There are no class folders in ``root/train``.
    """

    layout = Layout(_WAYS[0], alternatives=_WAYS[1:], places=("", "*"))

    def __init__(self, root: str = "data", **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        found = self.layout.find(self.root)
        train = found.paths[0] if found else self.root / "train"
        self.num_classes = len(class_folders(train))

    def read(self, split: SplitName) -> Split:
        """Return the files of one split."""
        train, test = self.found().paths
        found = read_folders(train if split == "train" else test, class_folders(train))
        if split == "train":
            return replace(found, remarks=[*_unused(train, test), *found.remarks])
        return found


def _unused(train: Path, test: Path) -> list[str]:
    beside = [path.name for path in sorted(train.parent.iterdir()) if path.is_dir()]
    others = [name for name in beside if name.lower() in _TEST and name != test.name]
    return [
        f"{name} is not used, as {test.name} holds the test images; --data.validation 0.1 holds "
        f"out a part of the training images for the curves"
        for name in others
    ]
