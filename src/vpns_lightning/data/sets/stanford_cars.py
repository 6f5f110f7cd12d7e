"""Stanford Cars (Krause et al., 2013, https://ai.stanford.edu/~jkrause/cars/car_dataset.html)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torchvision import datasets

from vpns_lightning.data.check import Counts
from vpns_lightning.data.layout import Layout, class_folders, read_folders
from vpns_lightning.data.module import ImageData, SplitName
from vpns_lightning.data.split import Split

_FOLDERS = ("stanford_cars", "stanford_cars/car_data/car_data", "car_data/car_data")


class StanfordCars(ImageData):
    """16,185 images in 196 classes, with the devkit's annotations or in one folder a class.

    Args:
        root: Folder that holds ``stanford_cars`` or ``car_data``.
        batch_size: Images in a batch of one rank.
        **kwargs: See ``ImageData``.
    """

    num_classes = 196
    counts = Counts(train=8_144, test=8_041)
    layout = Layout(
        (
            "stanford_cars/cars_train",
            "stanford_cars/cars_test",
            "stanford_cars/devkit/cars_meta.mat",
            "stanford_cars/devkit/cars_train_annos.mat",
            "stanford_cars/cars_test_annos_withlabels.mat",
        ),
        "a copy of the data set (its original address is gone)",
        alternatives=tuple((f"{folder}/train", f"{folder}/test") for folder in _FOLDERS),
    )

    def __init__(self, root: str = "data", *, batch_size: int = 128, **kwargs: Any) -> None:
        super().__init__(root, batch_size=batch_size, **kwargs)

    def read(self, split: SplitName) -> Split:
        """Return the files of one split."""
        for name in _FOLDERS:
            folder = self.root / name
            if (folder / "train").is_dir() and (folder / "test").is_dir():
                return read_folders(folder / split, class_folders(folder / "train"))
        reader = datasets.StanfordCars(self.root, split)
        files = [Path(file) for file, _ in reader._samples]
        return Split([int(label) for _, label in reader._samples], reader.classes, files)
