"""Tiny-ImageNet (Le & Yang, 2015, http://vision.stanford.edu/teaching/cs231n/reports/2015)."""

from __future__ import annotations

from pathlib import Path

from torchvision.datasets.utils import download_and_extract_archive

from vpns_lightning.data.check import Counts
from vpns_lightning.data.layout import Layout
from vpns_lightning.data.module import ImageData, SplitName
from vpns_lightning.data.split import Split


class TinyImageNet(ImageData):
    """110,000 images of 64 x 64 px in 200 classes; the official val part is the test split."""

    num_classes = 200
    counts = Counts(train=100_000, test=10_000)
    layout = Layout(
        tuple(
            f"tiny-imagenet-200/{path}"
            for path in ("wnids.txt", "train", "val/images", "val/val_annotations.txt")
        ),
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        downloadable=True,
    )

    def fetch(self) -> None:
        """Download and extract the archive."""
        md5 = "90528d7ca1a48142e341f4ef8d21d0de"
        download_and_extract_archive(self.layout.url, self.root, md5=md5)

    def read(self, split: SplitName) -> Split:
        """Return the files of one split."""
        folder = self.root / "tiny-imagenet-200"
        wnids = sorted((folder / "wnids.txt").read_text().split())
        label = {wnid: index for index, wnid in enumerate(wnids)}
        pairs = _train_images(folder, wnids) if split == "train" else _test_images(folder)
        return Split(
            [label[wnid] for _, wnid in pairs], _names(folder, wnids), [file for file, _ in pairs]
        )


def _train_images(folder: Path, wnids: list[str]) -> list[tuple[Path, str]]:
    return [
        (file, wnid)
        for wnid in wnids
        for file in sorted((folder / "train" / wnid / "images").iterdir())
    ]


def _test_images(folder: Path) -> list[tuple[Path, str]]:
    lines = (folder / "val" / "val_annotations.txt").read_text().splitlines()
    fields = [line.split("\t") for line in lines]
    return [(folder / "val" / "images" / name, wnid) for name, wnid, *_ in fields]


def _names(folder: Path, wnids: list[str]) -> list[str]:
    words = folder / "words.txt"
    if not words.is_file():
        return wnids
    name = dict(line.split("\t", 1) for line in words.read_text().splitlines() if "\t" in line)
    return [name.get(wnid, wnid) for wnid in wnids]
