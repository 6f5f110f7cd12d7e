"""Stanford Cars (Krause et al., 2013, https://ai.stanford.edu/~jkrause/cars/car_dataset.html)."""

from __future__ import annotations

from typing import Any

from vpns_lightning.data.check import Counts
from vpns_lightning.data.folders import class_folders, read_folders
from vpns_lightning.data.layout import Layout, either
from vpns_lightning.data.module import ImageData, SplitName
from vpns_lightning.data.split import Split

_DEVKITS = ("devkit", "car_devkit/devkit", "cars_devkit/devkit", "cars_devkit")
_LABELS = "cars_test_annos_withlabels"
_WAYS = either(
    ("cars_train", "cars_train/cars_train"),
    ("cars_test", "cars_test/cars_test"),
    tuple(f"{devkit}/cars_meta.mat" for devkit in _DEVKITS),
    tuple(f"{devkit}/cars_train_annos.mat" for devkit in _DEVKITS),
    (
        f"{_LABELS}.mat",
        *(f"{devkit}/{_LABELS}.mat" for devkit in _DEVKITS),
        f"{_LABELS} (1).mat",
    ),
)
_FOLDERS = ("train", "test")


class StanfordCars(ImageData):
    """16,185 images in 196 classes, with the devkit's annotations or in one folder a class.

    Args:
        root: Folder that holds ``stanford_cars`` or ``car_data``, or what is in them.
        batch_size: Images in a batch of one rank.
        **kwargs: See ``ImageData``.
    """

    num_classes = 196
    counts = Counts(train=8_144, test=8_041)
    layout = Layout(
        _WAYS[0],
        "a copy of the data set (its original address is gone)",
        alternatives=(_FOLDERS, *_WAYS[1:]),
        places=(
            "stanford_cars",
            "stanford_cars/car_data/car_data",
            "car_data/car_data",
            "stanford_cars/stanford_cars",
            "",
        ),
    )

    def __init__(self, root: str = "data", *, batch_size: int = 128, **kwargs: Any) -> None:
        super().__init__(root, batch_size=batch_size, **kwargs)

    def read(self, split: SplitName) -> Split:
        """Return the files of one split."""
        paths = self.found().paths
        if len(paths) == len(_FOLDERS):
            return read_folders(paths[split == "test"], class_folders(paths[0]))
        from scipy.io import loadmat

        train, test, meta, train_labels, test_labels = paths
        images, labels = (train, train_labels) if split == "train" else (test, test_labels)
        annotations = loadmat(labels, squeeze_me=True)["annotations"]
        return Split(
            [int(each["class"]) - 1 for each in annotations],
            loadmat(meta, squeeze_me=True)["class_names"].tolist(),
            [images / str(each["fname"]) for each in annotations],
        )
