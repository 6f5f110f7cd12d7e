"""What ``vpns data check`` verifies and reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

import numpy as np

from vpns_lightning.base.errors import UserError
from vpns_lightning.data.folders import holds
from vpns_lightning.data.images.looking import remarks
from vpns_lightning.data.split import Split

FEW = 16


class Counts(NamedTuple):
    """Published number of images in each split."""

    train: int
    test: int


@dataclass(frozen=True)
class CheckReport:
    """A data set that passed its check.

    Attributes:
        name: Data set.
        root: Folder given by the user.
        num_classes: Number of classes.
        images: Number of images in each split.
        official: Whether there are public counts, which then agree.
        decoded: Number of images decoded as a sample.
        smallest: Width and height in pixels of the smallest image of the sample.
        largest: Width and height in pixels of the largest image of the sample.
        remarks: What a user should know, a line each.
    """

    name: str
    root: str
    num_classes: int
    images: Mapping[str, int]
    official: bool
    decoded: int
    smallest: tuple[int, int]
    largest: tuple[int, int]
    remarks: Sequence[str] = ()

    def __str__(self) -> str:
        """Return the report as a user reads it."""
        counts = ", ".join(f"{count:,} {split}" for split, count in self.images.items())
        agree = "as published" if self.official else "no public figures to compare with"
        sizes = " to ".join("{} x {}".format(*size) for size in (self.smallest, self.largest))
        first = (
            f"{self.name} in {self.root}: {counts} images ({agree}), {self.num_classes} classes; "
            f"{self.decoded} decoded, {sizes} px"
        )
        return "\n".join([first, *self.remarks])


def check_options(
    input_size: int, batch_size: int, validation: float, num_workers: int | None
) -> None:
    """Refuse numbers that no data set can be used with.

    Raises:
        UserError: A number is out of its range.
    """
    if min(input_size, batch_size) < 1:
        raise UserError(
            f"input_size and batch_size must be >= 1, got {input_size} and {batch_size}"
        )
    if num_workers is not None and num_workers < 0:
        raise UserError(f"num_workers must be >= 0, got {num_workers}; null chooses")
    if not 0 <= validation < 1:
        raise UserError(
            f"validation must be in [0, 1), got {validation}; 0 validates on the test split"
        )


def check_limits(train: int | None, test: int | None) -> None:
    """Refuse a number of images of each class that leaves none.

    Raises:
        UserError: A number is below 1.
    """
    for name, limit in (("limit_per_class", train), ("limit_test_per_class", test)):
        if limit is not None and limit < 1:
            raise UserError(f"{name} must be >= 1, got {limit}; null uses all images")


def check_images(
    name: str,
    root: Path,
    splits: Mapping[str, Split],
    counts: Counts | None,
    sample: int,
) -> CheckReport:
    """Verify counts, files and a sample of images.

    Args:
        name: Data set.
        root: Folder given by the user.
        splits: What ``check_labels`` accepted.
        counts: Published number of images, None if there is none.
        sample: Images to decode in each split.

    Raises:
        UserError: Something is wrong; the message says what, where and what to do.
    """
    sizes: list[tuple[int, int]] = []
    lines: list[str] = []
    for split_name, split in splits.items():
        _check_count(name, split_name, split, counts and getattr(counts, split_name))
        _check_files(name, split_name, split)
        sizes += _decode_sample(split, sample)
        lines += all_remarks(name, split_name, split, sample)
    return CheckReport(
        name=name,
        root=str(root),
        num_classes=len(splits["train"].class_names),
        images={split_name: len(split) for split_name, split in splits.items()},
        official=counts is not None,
        decoded=len(sizes),
        smallest=min(sizes),
        largest=max(sizes),
        remarks=lines,
    )


def all_remarks(name: str, split_name: str, split: Split, sample: int) -> list[str]:
    """Return what a user should know of how a split was found and of a sample of its files."""
    found = [*split.remarks, *remarks(split, sample)]
    return [f"{name}, {split_name} split: {line}" for line in found]


def check_labels(name: str, split_name: str, split: Split, num_classes: int) -> None:
    """Verify that labels and classes fit together.

    Raises:
        UserError: Class names, labels or images are missing, too many or out of range.
    """
    where = f"{name}, {split_name} split"
    if len(split.class_names) != num_classes:
        raise UserError(
            f"{where}: expected {num_classes} classes, found {len(split.class_names)}; "
            f"extract the data set again"
        )
    if not len(split):
        raise UserError(f"{where}: no images found; extract the data set again")
    if split.count != len(split):
        raise UserError(
            f"{where}: expected one label for each image, found {split.count} images and "
            f"{len(split)} labels; extract the data set again"
        )
    lowest, highest = min(split.labels), max(split.labels)
    if lowest < 0 or highest >= num_classes:
        raise UserError(
            f"{where}: expected labels 0..{num_classes - 1}, found {lowest}..{highest}; "
            f"extract the data set again"
        )


def check_present(name: str, split_name: str, split: Split) -> None:
    """Refuse a split none of whose files is where it should be; single ones are named later.

    Raises:
        UserError: None of a few files is there.
    """
    rows = np.unique(np.linspace(0, len(split) - 1, FEW).astype(int)).tolist()
    if split.files and not any(split.files[row].exists() for row in rows):
        first = split.files[0]
        raise UserError(
            f"{name}, {split_name} split: none of {len(rows)} image files looked at is there, the "
            f"first is {first}, but {holds(first.parent)}; extract the data set again, or move its "
            f"images there"
        )


def _check_count(name: str, split_name: str, split: Split, expected: int | None) -> None:
    if expected is not None and len(split) != expected:
        raise UserError(
            f"{name}, {split_name} split: expected {expected:,} images, found {len(split):,}; "
            f"the data set is incomplete or not the official one: extract it again, or use "
            f"ImageFolder for a subset"
        )


def _check_files(name: str, split_name: str, split: Split) -> None:
    absent = [(row, file) for row, file in enumerate(split.files) if not _size(file)]
    if absent:
        row, file = absent[0]
        raise UserError(
            f"{name}, {split_name} split: {len(absent)} of {len(split):,} image files are missing "
            f"or empty, the first is image {row}, {file}; extract the data set again"
        )


def _size(file: Path) -> int:
    try:
        about = file.stat()
    except OSError:
        return 0
    return about.st_size if S_ISREG(about.st_mode) else 0


def _decode_sample(split: Split, sample: int) -> list[tuple[int, int]]:
    """Return width and height in pixels of ``sample`` images spread over all classes."""
    by_class = np.argsort(np.asarray(split.labels), kind="stable")
    places = np.unique(np.linspace(0, len(split) - 1, min(sample, len(split))).astype(int))
    return [split.image(int(row)).size for row in by_class[places]]
