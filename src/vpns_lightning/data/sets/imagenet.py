"""ImageNet-1k (Russakovsky et al., 2015, https://www.image-net.org)."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vpns_lightning.base.errors import UserError
from vpns_lightning.data.check import Counts
from vpns_lightning.data.folders import class_folders, read_folders, scan
from vpns_lightning.data.layout import Layout
from vpns_lightning.data.module import ImageData, SplitName
from vpns_lightning.data.split import Paths, Split

_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
# lists of the classes of validation images in one folder, as people have them
LABEL_FILES = (
    "LOC_val_solution.csv",
    "val.txt",
    "imagenet_2012_validation_synset_labels.txt",
    _TRUTH,
)
_DEVKIT = "ILSVRC2012_devkit_t12/data"


class ImageNet(ImageData):
    """1,331,167 images in 1,000 classes; the official val part is the test split.

    The images of val may lie in one folder for each class, or all in one with a list of classes
    beside it: ``LOC_val_solution.csv``, ``val.txt``, ``imagenet_2012_validation_synset_labels.txt``
    or the development kit's ground truth.

    Args:
        root: Folder that holds ``imagenet``, or ``train`` and ``val`` themselves.
        batch_size: Images in a batch of one rank.
        **kwargs: See ``ImageData``.
    """

    num_classes = 1000
    counts = Counts(train=1_281_167, test=50_000)
    layout = Layout(
        ("train", "val"),
        "https://www.image-net.org/download.php (one folder of images for each wnid in train)",
        places=("imagenet", "", "ILSVRC/Data/CLS-LOC", "imagenet/ILSVRC/Data/CLS-LOC"),
    )

    def __init__(self, root: str = "data", *, batch_size: int = 1024, **kwargs: Any) -> None:
        super().__init__(root, batch_size=batch_size, **kwargs)

    def read(self, split: SplitName) -> Split:
        """Return the files of one split."""
        train, val = self.found().paths
        wnids = class_folders(train)
        if split == "train":
            return read_folders(train, wnids)
        flat = [file for file in scan(val).images if Path(file).parent == val]
        return _flat(flat, val, wnids, self.root) if flat else read_folders(val, wnids)


def _flat(files: Sequence[str], val: Path, wnids: Sequence[str], root: Path) -> Split:
    """Return validation images that lie in one folder, their classes from a list beside it."""
    above = [folder for folder in val.parents if folder.is_relative_to(root)]
    for folder in (val, *above, *(folder / _DEVKIT for folder in above)):
        for name in LABEL_FILES:
            if (folder / name).is_file():
                listed = _listed(folder / name, [Path(file).name for file in files], wnids)
                index = {wnid: label for label, wnid in enumerate(wnids)}
                labels = [index[listed[Path(file).name]] for file in files]
                remark = f"{val} is in one folder, its classes are those of {folder / name}"
                return Split(labels, wnids, Paths(files), remarks=[remark])
    raise UserError(
        f"ImageNet: {val.absolute()} has no class folders, its {len(files):,} images lie side by "
        f"side, and no list of their classes is there: put one of {', '.join(LABEL_FILES)} into "
        f"{val.parent.absolute()}, or sort the images into one folder for each wnid"
    )


def _listed(file: Path, names: Sequence[str], wnids: Sequence[str]) -> dict[str, str]:
    """Return the wnid of each image.

    Raises:
        UserError: The list is not of these images, or not of these classes.
    """
    known = set(wnids)
    lines = file.read_text().splitlines()
    rows = list(csv.reader(lines, delimiter="," if file.suffix == ".csv" else " "))
    if file.suffix == ".csv":
        pairs = {f"{image}.JPEG": boxes.split()[0] for image, boxes, *_ in rows[1:]}
    elif len(rows[0]) >= 2:
        pairs = {row[0]: row[1] for row in rows if row}
    else:  # one line an image, in the order of their names
        pairs = dict(zip(sorted(names), (row[0] for row in rows if row), strict=True))
    if file.name == _TRUTH:
        pairs = _by_meta(file.with_name("meta.mat"), pairs)
    else:  # numbers count the sorted wnids
        numbers = {str(number): wnid for number, wnid in enumerate(wnids)}
        pairs = {name: numbers.get(label, label) for name, label in pairs.items()}
    for name in names:
        if name not in pairs:
            raise UserError(f"{file} has no class for {name}: take the list of ILSVRC2012")
        if pairs[name] not in known:
            raise UserError(
                f"{file} says that {name} is of class {pairs[name]}, which is no folder of train: "
                f"take the list of ILSVRC2012"
            )
    return pairs


def _by_meta(meta: Path, numbers: dict[str, str]) -> dict[str, str]:
    """Return the wnids of the development kit's numbers from 1 to 1,000."""
    from scipy.io import loadmat

    if not meta.is_file():
        raise UserError(f"{meta} not found, which says what the numbers in {_TRUTH} stand for")
    synsets = loadmat(meta, squeeze_me=True)["synsets"]
    wnid = {str(each["ILSVRC2012_ID"]): str(each["WNID"]) for each in synsets}
    return {name: wnid[number] for name, number in numbers.items()}
