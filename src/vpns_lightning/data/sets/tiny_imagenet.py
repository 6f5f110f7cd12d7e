"""Tiny-ImageNet (Le & Yang, 2015, http://vision.stanford.edu/teaching/cs231n/reports/2015)."""

from __future__ import annotations

from pathlib import Path

from torchvision.datasets.utils import download_and_extract_archive

from vpns_lightning.base.errors import UserError
from vpns_lightning.data.check import Counts
from vpns_lightning.data.folders import class_folders, scan
from vpns_lightning.data.layout import Layout
from vpns_lightning.data.module import ImageData, SplitName
from vpns_lightning.data.split import Paths, Split


class TinyImageNet(ImageData):
    """110,000 images of 64 x 64 px in 200 classes; the official val part is the test split.

    Its images may have been sorted into one folder for each class.

    Args:
        root: Folder that holds ``tiny-imagenet-200``.
        **kwargs: See ``ImageData``.
    """

    num_classes = 200
    counts = Counts(train=100_000, test=10_000)
    layout = Layout(
        ("wnids.txt", "train", "val/images", "val/val_annotations.txt"),
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        downloadable=True,
        alternatives=(("train", "val"),),
        places=("tiny-imagenet-200", "tiny-imagenet-200/tiny-imagenet-200", ""),
    )

    def fetch(self) -> None:
        """Download and extract the archive."""
        md5 = "90528d7ca1a48142e341f4ef8d21d0de"
        download_and_extract_archive(self.layout.url, self.root, md5=md5)

    def read(self, split: SplitName) -> Split:
        """Return the files of one split."""
        folder = self.found().folder
        listed = folder / "wnids.txt"
        wnids = class_folders(folder / "train")
        if listed.is_file():
            wnids = sorted(listed.read_text().split())
        label = {wnid: index for index, wnid in enumerate(wnids)}
        pairs = _train_images(folder, wnids) if split == "train" else _test_images(folder, label)
        return Split(
            [label[wnid] for _, wnid in pairs],
            _names(folder, wnids),
            Paths(file for file, _ in pairs),
        )


def _train_images(folder: Path, wnids: list[str]) -> list[tuple[str, str]]:
    return [(file, wnid) for wnid in wnids for file in scan(folder / "train" / wnid).images]


def _test_images(folder: Path, label: dict[str, int]) -> list[tuple[str, str]]:
    """Return files and wnids by the list of annotations, or by folders where there is none."""
    files = scan(folder / "val").images
    annotations = folder / "val" / "val_annotations.txt"
    if annotations.is_file():
        by_name = {Path(file).name: file for file in files}
        flat = str(folder / "val" / "images")
        fields = [line.split("\t") for line in annotations.read_text().splitlines()]
        return [(by_name.get(name, f"{flat}/{name}"), wnid) for name, wnid, *_ in fields]
    sorted_in = [(file, _classes_of(file, folder / "val", label)) for file in files]
    astray = [file for file, wnids in sorted_in if not wnids]
    if astray:
        raise UserError(
            f"TinyImageNet: {len(astray):,} of {len(files):,} images in {folder / 'val'} lie in no "
            f"folder of a class and {annotations} is not there to say which, the first is "
            f"{astray[0]}: restore that file"
        )
    return [(file, wnids[-1]) for file, wnids in sorted_in]


def _classes_of(file: str, val: Path, label: dict[str, int]) -> list[str]:
    return [part for part in Path(file).relative_to(val).parts if part in label]


def _names(folder: Path, wnids: list[str]) -> list[str]:
    words = folder / "words.txt"
    if not words.is_file():
        return wnids
    name = dict(line.split("\t", 1) for line in words.read_text().splitlines() if "\t" in line)
    return [name.get(wnid, wnid) for wnid in wnids]
